"""The test part: which images of a source are in it, and which training images are left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.artifacts import Images
from trainables.data.cuts.groups import number_groups, whole_groups
from trainables.data.readers.rows import Row
from trainables.data.source_cache import Booleans, Integers, stratified_test
from trainables.models.extraction.stored_features import image_names

TEST_FRACTION = 0.2


def number_classes(rows: Sequence[Row]) -> tuple[tuple[str, ...], Integers]:
    """Return the class names, ascending, and the number of each row's class ``[M]``."""
    names = sorted({row.label for row in rows})
    numbers = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([numbers[row.label] for row in rows], dtype=np.int64)


def is_parted(rows: Sequence[Row]) -> bool:
    """Say whether a folder has a test part of its own."""
    return bool(rows) and rows[0].is_test is not None


def split(
    rows: Sequence[Row], labels: Integers, images: Images | None = None
) -> tuple[Booleans, Booleans]:
    """Return which images are for the test, and which stay: no training image copies a test image.

    Images are copies if their pixels are equal, those that stay files if the files are.

    Without a test part it is split off per class, equal images counted once, from all but the
    source's own validation. Groups are not parted: training images of a group with test images do
    not stay. Nor do those that copy, or share a group with, an image of that validation.

    Args:
        rows: The files, with their part.
        labels: Their classes ``[M]``.
        images: The images ``[M, H, W, 3]``; without them all are different.
    """
    first = np.arange(len(rows)) if images is None else _first_equal(images)
    unique = first == np.arange(len(rows))
    groups = number_groups([row.group for row in rows])
    own = np.array([row.validation for row in rows], dtype=np.bool_)
    if is_parted(rows):
        is_test = np.array([row.is_test for row in rows], dtype=np.bool_)
        kept = is_test | ~np.isin(first, first[is_test])
    else:
        is_test = np.zeros(len(rows), dtype=np.bool_)
        free = unique & ~np.isin(first, first[own])
        is_test[free] = _split_off(labels[free], None if groups is None else groups[free])
        kept = unique | ~is_test[first]
    if groups is not None:
        kept &= is_test | ~np.isin(groups, groups[is_test])
    validation = own & ~is_test & kept
    for same in (first, *([] if groups is None else [groups])):
        kept &= is_test | validation | ~np.isin(same, same[validation])
    return is_test, kept


def _split_off(labels: Integers, groups: Integers | None) -> Booleans:
    """Return which images are the test where a source has none: about 20 % of each class."""
    if groups is None:
        return stratified_test(labels, TEST_FRACTION)
    counts = np.bincount(labels)
    wanted = {label: [max(round(n * TEST_FRACTION), 1)] for label, n in enumerate(counts) if n}
    is_test: Booleans = whole_groups(labels, groups, wanted, np.random.default_rng(0)) == 0
    return is_test


def _first_equal(images: Images) -> Integers:
    """Return for each image the position of the first one with the same content ``[M]``."""
    seen: dict[bytes, int] = {}
    names = image_names(images, np.arange(len(images)))
    return np.array([seen.setdefault(d, n) for n, d in enumerate(names)], dtype=np.int64)
