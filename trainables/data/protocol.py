"""Split a source into known/new, training/validation/test, unlabelled and stream indices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainables.data.cuts.class_roles import (
    arrived_classes,
    generator,
    split_classes,
    split_in_halves,
    train_members,
)
from trainables.data.cuts.class_sizes import labelled_sizes, largest_that_fits, unlabelled_sizes
from trainables.data.cuts.service import service_parts
from trainables.data.cuts.validation import join, split_validation, split_validation_novel
from trainables.data.data_settings import Data
from trainables.data.source_cache import Integers, Source
from trainables.errors import ConfigError


class Cut(NamedTuple):
    """Index lists into a source, and the classes' original ids in their new order.

    ``novel_classes`` are the new classes of the chosen world, ``later_classes`` those of phases
    that have not come yet. ``threshold_classes``, none of them, are the half of
    ``validation_novel_classes`` on whose images the threshold is fitted; they are empty if the
    validation has a single new class. ``held_out_unknown`` are test images of the other half and
    of later phases, which no model learns: only world ``test`` has them.
    """

    known_classes: list[int]
    novel_classes: list[int]
    later_classes: list[int]
    validation_novel_classes: list[int]
    threshold_classes: list[int]
    class_counts: list[int]
    known_train: Integers
    validation_known: Integers
    validation_novel: Integers
    pool_known: Integers
    pool_novel: Integers
    unlabelled: Integers
    held_out_known: Integers
    held_out_novel: Integers
    held_out_unknown: Integers


def cut(data: Data, source: Source) -> Cut:
    """Split a source by the settings ``data``, deterministically.

    Raises:
        ConfigError: The source has too few classes or images; the message names the class.
    """
    if data.world == "service":
        return _cut_for_service(data, source)
    known, validation_classes, test_classes = split_classes(data, source)
    members = {c: train_members(source, c) for c in range(len(source.class_names))}
    train, calibration, selection = split_validation(data, source, known, members)
    available = np.array([len(images) for images in train], dtype=np.int64)
    counts = labelled_sizes(data, available)
    kept, leftover = select_long_tail(train, counts.tolist(), data.seed)
    unlabelled, leftover = _split_unlabelled(data, source, known, counts, leftover)
    parts = split_validation_novel(data, source, validation_classes, members)
    threshold_classes, others = split_in_halves(source, validation_classes)
    held_out_unknown = join([])
    if data.world == "validation_swapped":
        threshold_classes, others = others, threshold_classes
    later: list[int] = []
    if data.world == "test":
        novel, later = arrived_classes(data, source, test_classes)
        pool_novel = join([members[c] for c in novel])
        held_out_known = _test_members(source, known)
        held_out_novel = _test_members(source, novel)
        held_out_unknown = _test_members(source, [*others, *later], required=False)
    else:
        novel = others
        pool_novel = _of_classes(source, parts.pool, novel)
        held_out_known = selection
        held_out_novel = _of_classes(source, parts.held_out, novel)
    pool_novel = generator(data, "pool novel").permutation(pool_novel)[: data.stream.novel]
    return Cut(
        known_classes=known,
        novel_classes=novel,
        later_classes=later,
        validation_novel_classes=validation_classes,
        threshold_classes=threshold_classes,
        class_counts=counts.tolist(),
        known_train=join(kept),
        validation_known=calibration,
        validation_novel=parts.threshold,
        pool_known=_take_evenly(leftover, data.stream.known),
        pool_novel=np.sort(pool_novel),
        unlabelled=np.sort(unlabelled),
        held_out_known=held_out_known,
        held_out_novel=held_out_novel,
        held_out_unknown=held_out_unknown,
    )


def _cut_for_service(data: Data, source: Source) -> Cut:
    """Return the cut of world `service`: all classes are known, and there is no stream."""
    parts = service_parts(data, source)
    known = list(range(len(source.class_names)))
    counts = np.bincount(source.labels[parts.train], minlength=len(known))
    empty = join([])
    return Cut(
        known_classes=known,
        novel_classes=[],
        later_classes=[],
        validation_novel_classes=[],
        threshold_classes=[],
        class_counts=counts.tolist(),
        known_train=parts.train,
        validation_known=parts.validation,
        validation_novel=empty,
        pool_known=empty,
        pool_novel=empty,
        unlabelled=empty,
        held_out_known=parts.held_out,
        held_out_novel=empty,
        held_out_unknown=empty,
    )


def select_long_tail(
    members: list[Integers], counts: list[int], seed: int
) -> tuple[list[Integers], list[Integers]]:
    """Select the images of each class in the long-tailed set, as the published CIFAR-LT code.

    A legacy NumPy generator shuffles the ascending indices of one class after the other; the first
    ``n_c`` of each class are selected. The shuffles do not depend on the counts, so the subsets of
    one seed are nested.

    Args:
        members: Ascending indices per class.
        counts: Number of images to select per class.
        seed: Seed of the generator; 0 in the published lists.

    Returns:
        Per class the selected and the remaining indices, in shuffled order.

    Source:
        Cao et al. 2019, arXiv 1906.07413; kaidic/LDAM-DRW ``imbalance_cifar.py``, with a separate
        generator in place of the process's global one.
    """
    legacy = np.random.RandomState(seed % 2**32)
    kept, leftover = [], []
    for indices, count in zip(members, counts, strict=True):
        order = np.sort(indices)
        legacy.shuffle(order)
        kept.append(order[:count])
        leftover.append(order[count:])
    return kept, leftover


def _split_unlabelled(
    data: Data, source: Source, known: list[int], counts: Integers, leftover: list[Integers]
) -> tuple[Integers, list[Integers]]:
    """Split the unlabelled images off from the leftover images; return them and the others."""
    if not data.unlabelled.ratio:
        return join([]), leftover
    wanted = unlabelled_sizes(
        counts, ratio=data.unlabelled.ratio, imbalance_factor=data.unlabelled.imbalance_factor
    )
    left = np.array([len(images) for images in leftover], dtype=np.int64)
    lacking = np.flatnonzero(wanted > left)
    if len(lacking):
        label = int(lacking[0])
        most = largest_that_fits(data, counts + left)
        bound = f"data.max_per_class of at most {most}, or " if most else ""
        raise ConfigError(
            f"data.unlabelled: class '{source.class_names[known[label]]}' has {left[label]} "
            f"training images left beside {counts[label]} labelled images, but {wanted[label]} are "
            f"required; allowed: {bound}a smaller data.unlabelled.ratio; received "
            f"{data.unlabelled.ratio:g}"
        )
    pairs = list(zip(leftover, wanted, strict=True))
    return join([images[:n] for images, n in pairs]), [images[n:] for images, n in pairs]


def _take_evenly(per_class: list[Integers], limit: int) -> Integers:
    """Take at most ``limit`` images, evenly over the classes until a class runs out of images."""
    turn = np.concatenate([np.arange(len(indices)) for indices in per_class])
    order = np.argsort(turn, kind="stable")[:limit]
    return np.sort(join(per_class)[order])


def _of_classes(source: Source, indices: Integers, classes: list[int]) -> Integers:
    """Return the indices of images of some classes, in their order."""
    return indices[np.isin(source.labels[indices], classes)]


def _test_members(source: Source, classes: list[int], *, required: bool = True) -> Integers:
    """Return the test images of classes; a class may have none (it is not judged), but not all.

    With ``required`` false, all may have none.
    """
    parts = [np.flatnonzero((source.labels == c) & source.is_test) for c in classes]
    found = join([part.astype(np.int64) for part in parts])
    if required and classes and not len(found):
        names = ", ".join(source.class_names[label] for label in classes[:3])
        raise ConfigError(
            f"the classes {names} have no test images; add images to their test folders, or use a "
            "folder without train/ and test/, which is split 80/20"
        )
    return found
