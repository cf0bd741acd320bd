"""The validation: images of known classes in two halves, and of its new classes in three parts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainables.data.cuts.class_roles import (
    NEW_CLASS_GROUPS,
    NEW_CLASS_IMAGES,
    count_units,
    generator,
    train_members,
)
from trainables.data.cuts.groups import whole_groups
from trainables.data.data_settings import Data
from trainables.data.source_cache import Integers, Source
from trainables.errors import ConfigError

TOO_FEW = 2  # training images, or groups, of a class that gives none to the validation


class NovelParts(NamedTuple):
    """Training images of the validation's new classes, by what they are for."""

    threshold: Integers
    pool: Integers
    held_out: Integers


def split_validation(
    data: Data, source: Source, known: list[int], members: dict[int, Integers]
) -> tuple[list[Integers], Integers, Integers]:
    """Split a balanced validation set off from the known classes, in two halves.

    A class of one or two training images (or groups) keeps them: no ``validation_per_class`` fits
    it.

    Returns the remaining images per class, the half for calibration and threshold, and the half
    that is held out in world ``validation``.
    """
    rest, calibration, selection = [], [], []
    too_small = too_small_classes(data, source, known)
    if too_small:
        more = f" (and {len(too_small) - 1} more classes)" if len(too_small) > 1 else ""
        raise ConfigError(f"{too_small[0]}{more}")
    if source.groups is not None:
        return _grouped_validation(data, source, source.groups, known)
    for label in known:
        wanted = data.validation_per_class if len(members[label]) > TOO_FEW else 0
        order = generator(data, "validation", label).permutation(members[label])
        calibration.append(np.sort(order[: wanted - wanted // 2]))
        selection.append(np.sort(order[wanted - wanted // 2 : wanted]))
        rest.append(np.sort(order[wanted:]))
    return rest, join(calibration), join(selection)


def _grouped_validation(
    data: Data, source: Source, groups: Integers, known: list[int]
) -> tuple[list[Integers], Integers, Integers]:
    """Split a validation set off in whole groups, see `split_validation`."""
    members = join([train_members(source, label) for label in known])
    wanted = data.validation_per_class
    sizes = {
        label: [wanted - wanted // 2, wanted // 2]
        if count_units(source, label) > TOO_FEW
        else [0, 0]
        for label in known
    }
    labels = source.labels[members]
    part = whole_groups(labels, groups[members], sizes, generator(data, "validation groups"))
    rest = [np.sort(members[(part == 2) & (labels == label)]) for label in known]
    for label, images in zip(known, rest, strict=True):
        if not len(images):
            raise ConfigError(
                f"data.validation_per_class: class '{source.class_names[label]}' keeps no image to "
                "train on, because all its groups are in the validation with other classes; "
                f"allowed: a smaller number; received {wanted}"
            )
    return rest, np.sort(members[part == 0]), np.sort(members[part == 1])


def too_small_classes(data: Data, source: Source, known: list[int]) -> list[str]:
    """Return a line for each known class whose validation slice would leave it no training image.

    Classes of one or two training images (or groups) are none of them, see `split_validation`.
    """
    wanted, lines = data.validation_per_class, []
    sizes = {label: len(train_members(source, label)) for label in known}
    for label, available in sizes.items():
        if available == 0 or (count_units(source, label) > TOO_FEW and available <= wanted):
            lines.append(
                f"data.validation_per_class: class '{source.class_names[label]}' has {available} "
                f"training images, so at most {max(available - 1, 0)} can be for validation; "
                f"received {wanted}"
            )
    return lines


def split_validation_novel(
    data: Data, source: Source, classes: list[int], members: dict[int, Integers]
) -> NovelParts:
    """Split each validation-novel class into 1/4 threshold, 1/2 pool and 1/4 held-out images."""
    threshold, pool, held_out = [], [], []
    if source.groups is not None:
        return _grouped_validation_novel(data, source, source.groups, classes)
    for label in classes:
        order = generator(data, "validation novel", label).permutation(members[label])
        quarter = len(order) // 4
        if quarter < 1:
            raise ConfigError(
                f"class '{source.class_names[label]}', a new class for validation, has "
                f"{len(order)} training images; at least {NEW_CLASS_IMAGES} are needed "
                "(threshold, pool, held out)"
            )
        threshold.append(np.sort(order[:quarter]))
        held_out.append(np.sort(order[quarter : 2 * quarter]))
        pool.append(np.sort(order[2 * quarter :]))
    return NovelParts(join(threshold), join(pool), join(held_out))


def _grouped_validation_novel(
    data: Data, source: Source, groups: Integers, classes: list[int]
) -> NovelParts:
    """Split the validation-novel classes in whole groups, see `split_validation_novel`."""
    members = join([train_members(source, label) for label in classes])
    labels = source.labels[members]
    sizes = {label: [int((labels == label).sum()) // 4] * 2 for label in classes}
    part = whole_groups(labels, groups[members], sizes, generator(data, "validation novel groups"))
    for label in classes:
        held = len(np.unique(part[labels == label]))
        if held < NEW_CLASS_GROUPS:
            raise ConfigError(
                f"class '{source.class_names[label]}', a new class for validation, has groups for "
                f"{held} of the parts threshold, pool and held out; at least {NEW_CLASS_GROUPS} "
                "groups that no other class shares are needed; name another class in "
                "data.novel_classes"
            )
    threshold, held_out, pool = (np.sort(members[part == number]) for number in range(3))
    return NovelParts(threshold, pool, held_out)


def join(parts: list[Integers]) -> Integers:
    """Return index lists as one."""
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])
