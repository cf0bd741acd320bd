"""Images that stay out of a training of the network, for temperature and threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainables.context import derive_seed
from trainables.data.cuts.groups import number_groups, whole_groups
from trainables.data.cuts.service import SLICE_GROUPS, SLICE_IMAGES
from trainables.data.shots.photo_set import Photo, PhotoSet
from trainables.errors import ConfigError

SHARE, MOST_SHARE = 0.15, 1 / 3  # of the training images of a class
TIMES = 2  # as many images as a quantile needs at the least are wanted
MARGIN = 1.25  # the least that goes: images do not weigh quite alike


def keep_out(images: PhotoSet, *, level: float, seed: int = 0) -> PhotoSet:
    """Return photos of which some training images validate; see `spare`.

    Args:
        images: The photos.
        level: Level of false alarm that the threshold is set for.
        seed: Draws the groups.

    Raises:
        ConfigError: There are too few images to set a threshold.
    """
    found = spare(images, level=level, seed=seed)
    if not enough(found, level):
        raise ConfigError(
            "fit: a network that is trained on the photos sets its threshold by at least "
            f"{math.ceil(MARGIN * fewest(level))} images that stay out of the training, from "
            f"classes of {SLICE_IMAGES} training images or more; these photos can spare "
            f"{kept_out(found)}; add images, or take a pretrained backbone that stays as it is "
            "(--backbone NAME=FILE, without --deeper)"
        )
    return found


def spare(images: PhotoSet, *, level: float, seed: int = 0) -> PhotoSet:
    """Return photos of which some training images validate, in whole groups, as far as they go.

    They are about 15 % of the training images of each class of at least 25 in 5 groups, up to a
    third where that would be too few for the threshold. Photos with a validation part of their own
    stay as they are.

    Args:
        images: The photos.
        level: Level of false alarm that the threshold is set for.
        seed: Draws the groups.
    """
    if kept_out(images):
        return images
    places = [n for n, photo in enumerate(images.photos) if photo.part == "train"]
    chosen = _chosen([images.photos[n] for n in places], fewest(level), seed)
    out = {place for place, is_out in zip(places, chosen.tolist(), strict=True) if is_out}
    photos = [p._replace(part="val") if n in out else p for n, p in enumerate(images.photos)]
    return images._replace(photos=photos)


def fewest(level: float) -> int:
    """Return the smallest number of known images that can tell a level of false alarm.

    Example:
        >>> fewest(0.05), fewest(0.01)
        (19, 99)
    """
    return math.ceil(1 / level - 1 - 1e-9)


def kept_out(images: PhotoSet) -> int:
    """Return how many images validate."""
    return sum(photo.part == "val" for photo in images.photos)


def enough(images: PhotoSet, level: float) -> bool:
    """Say whether so many images validate that they can tell a level of false alarm."""
    return kept_out(images) >= MARGIN * fewest(level)


def _chosen(photos: Sequence[Photo], needed: int, seed: int) -> np.ndarray:
    """Return which of the training images ``[M]`` bool stay out."""
    names = sorted({photo.class_name for photo in photos})
    labels = np.array([names.index(photo.class_name) for photo in photos], dtype=np.int64)
    groups = number_groups([photo.group for photo in photos])
    groups = np.arange(len(photos)) if groups is None else groups
    sizes = np.bincount(labels, minlength=len(names))
    able = [
        label
        for label, size in enumerate(sizes)
        if size >= SLICE_IMAGES and len(np.unique(groups[labels == label])) >= SLICE_GROUPS
    ]
    total = max(int(sizes[able].sum()), 1)
    share = min(max(SHARE, TIMES * needed / total), MOST_SHARE)
    wanted = {n: [round(share * size) if n in able else 0] for n, size in enumerate(sizes)}
    rng = np.random.default_rng(derive_seed(seed, "fit", "kept out"))
    found: np.ndarray = whole_groups(labels, groups, wanted, rng) == 0
    return found
