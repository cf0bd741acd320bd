"""World `service`: every class with labels is known, and the whole train part trains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainables.data.cuts.class_roles import generator
from trainables.data.cuts.groups import whole_groups
from trainables.data.data_settings import Data
from trainables.data.source_cache import Integers, Source
from trainables.errors import ConfigError

SLICE_IMAGES, SLICE_GROUPS = 25, 5  # training images and groups of a class that gives some away


class ServiceParts(NamedTuple):
    """Ascending positions of the images that train, that calibrate, and that are held out."""

    train: Integers
    validation: Integers
    held_out: Integers


def service_parts(data: Data, source: Source) -> ServiceParts:
    """Return who is who where all classes are known.

    The source's own validation calibrates and does not train. ``data.validation_per_class`` images
    of each class of at least 25 images in 5 groups join it, in whole groups. Test images are held
    out, of the classes that have some.

    Raises:
        ConfigError: A class has no training image.
    """
    held_out = source.is_test
    own = np.zeros_like(held_out) if source.validation is None else source.validation & ~held_out
    validation = own | _slice(data, source, ~held_out & ~own)
    train = ~held_out & ~validation
    counts = np.bincount(source.labels[train], minlength=len(source.class_names))
    empty = [name for name, n in zip(source.class_names, counts, strict=True) if not n]
    if empty:
        more = f" (and {len(empty) - 1} more classes)" if len(empty) > 1 else ""
        raise ConfigError(
            f"data.source: class '{empty[0]}' has no training image{more}; world service trains on "
            "every class; add images to its train part, or delete it from the other parts"
        )
    return ServiceParts(
        *(np.flatnonzero(p).astype(np.int64) for p in (train, validation, held_out))
    )


def _slice(data: Data, source: Source, free: np.ndarray) -> np.ndarray:
    """Return which of the free images ``[M]`` bool are a calibration slice, in whole groups."""
    wanted = data.validation_per_class
    chosen = np.zeros_like(free)
    if not wanted:
        return chosen
    members = np.flatnonzero(free)
    labels = source.labels[members]
    groups = np.arange(len(members)) if source.groups is None else source.groups[members]
    sizes = np.bincount(labels, minlength=len(source.class_names))
    able = [
        label
        for label, size in enumerate(sizes)
        if size >= SLICE_IMAGES and len(np.unique(groups[labels == label])) >= SLICE_GROUPS
    ]
    most = min((int(sizes[label]) for label in able), default=0) - 1
    if wanted > most:
        raise ConfigError(
            f"data.validation_per_class: allowed in world service: 0 to {max(most, 0)}, which "
            f"leaves each class of at least {SLICE_IMAGES} images one to train on; received "
            f"{wanted}"
        )
    parts = {label: [wanted] if label in able else [0] for label in range(len(sizes))}
    part = whole_groups(labels, groups, parts, generator(data, "calibration slice"))
    chosen[members[part == 0]] = True
    return chosen
