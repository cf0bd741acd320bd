"""Which image plays which part: new classes, validation, long tail, unlabelled, stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainables.class_sizes import labelled_sizes, largest_that_fits, unlabelled_sizes
from trainables.context import derive_seed
from trainables.errors import ConfigError
from trainables.experiment import Data
from trainables.source_cache import Integers, Source


class Cut(NamedTuple):
    """Index lists into a source, and the classes' original ids in their new order.

    ``novel`` are the new classes of the chosen world, ``validation_novel_classes`` those that the
    threshold is fitted on (in world ``validation`` the same classes, other images).
    """

    known_classes: list[int]
    novel_classes: list[int]
    validation_novel_classes: list[int]
    class_counts: list[int]
    known_train: Integers
    validation_known: Integers
    validation_novel: Integers
    pool_known: Integers
    pool_novel: Integers
    unlabelled: Integers
    held_out_known: Integers
    held_out_novel: Integers


class _NovelParts(NamedTuple):
    threshold: Integers
    pool: Integers
    held_out: Integers


def generator(data: Data, *purpose: str | int) -> np.random.Generator:
    """Return NumPy's generator for a named draw of the protocol."""
    return np.random.default_rng(derive_seed(data.seed, "data", *purpose))


def cut(data: Data, source: Source) -> Cut:
    """Cut a source as ``data`` says; equal arguments give equal lists in every process.

    Raises:
        ConfigError: The source has too few classes or images; the message names the class.
    """
    known, validation_classes, test_classes = split_classes(data, source)
    members = {c: _train_members(source, c) for c in range(len(source.class_names))}
    train, calibration, selection = _carve(data, source, known, members)
    available = np.array([len(images) for images in train], dtype=np.int64)
    counts = labelled_sizes(data, available)
    kept, leftover = select_long_tail(train, counts.tolist(), data.seed)
    unlabelled, leftover = _set_apart(data, source, known, counts, leftover)
    parts = _part_validation_novel(data, source, validation_classes, members)
    if data.world == "validation":
        novel, pool_novel = validation_classes, parts.pool
        held_out_known, held_out_novel = selection, parts.held_out
    else:
        novel = test_classes
        pool_novel = _join([members[c] for c in novel])
        held_out_known = _test_members(source, known)
        held_out_novel = _test_members(source, novel)
    pool_novel = generator(data, "pool novel").permutation(pool_novel)[: data.stream.novel]
    return Cut(
        known_classes=known,
        novel_classes=novel,
        validation_novel_classes=validation_classes,
        class_counts=counts.tolist(),
        known_train=_join(kept),
        validation_known=calibration,
        validation_novel=parts.threshold,
        pool_known=_spread(leftover, data.stream.known),
        pool_novel=np.sort(pool_novel),
        unlabelled=np.sort(unlabelled),
        held_out_known=held_out_known,
        held_out_novel=held_out_novel,
    )


def split_classes(data: Data, source: Source) -> tuple[list[int], list[int], list[int]]:
    """Return (known, validation-novel, test-novel) class ids, ascending and disjoint.

    In a closed world all are known.

    Raises:
        ConfigError: Fewer than two classes would stay known, or the split is not possible.
    """
    total = len(source.class_names)
    if data.novel_classes == 0:
        return list(range(total)), [], []
    if data.novel_classes > total - 2:
        raise ConfigError(
            f"data.novel_classes: source '{data.source}' has {total} classes and at least 2 must "
            f"stay known; allowed: 2 to {total - 2}; received {data.novel_classes}"
        )
    novel = _apply_split(data, list(range(total)), data.novel_classes, source, "classes")
    if getattr(data.split, "whole_superclasses", False):
        chosen = data.validation_novel_classes
        validation = _apply_split(data, novel, chosen, source, "validation classes")
    else:
        order = generator(data, "validation classes").permutation(novel)
        validation = sorted(int(c) for c in order[: data.validation_novel_classes])
    known = sorted(set(range(total)) - set(novel))
    test = sorted(set(novel) - set(validation))
    if len(known) + len(validation) + len(test) != total or not test:
        raise ConfigError(
            f"data.split: {data.split.name} gave {len(novel)} new classes of which "
            f"{len(validation)} for validation; expected {data.novel_classes} and "
            f"{data.validation_novel_classes} different ones"
        )
    return known, validation, test


def _apply_split(
    data: Data, classes: list[int], count: int, source: Source, name: str
) -> list[int]:
    """Choose ``count`` of ``classes`` with the split method."""
    supers = source.superclasses
    try:
        chosen = data.split(
            num_classes=len(classes),
            num_novel=count,
            superclasses=None if supers is None else [supers[c] for c in classes],
            seed=derive_seed(data.seed, "data", name),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return sorted(classes[position] for position in chosen)


def _carve(
    data: Data, source: Source, known: list[int], members: dict[int, Integers]
) -> tuple[list[Integers], Integers, Integers]:
    """Take a balanced validation slice from the known classes and halve it.

    Returns what is left per class, the half for calibration and threshold, and the half that is
    held out in world ``validation``.
    """
    wanted = data.validation_per_class
    rest, calibration, selection = [], [], []
    for label in known:
        available = len(members[label])
        if available <= wanted:
            raise ConfigError(
                f"data.validation_per_class: class '{source.class_names[label]}' has {available} "
                f"training images, so at most {max(available - 1, 0)} can be validation; "
                f"received {wanted}"
            )
        order = generator(data, "validation", label).permutation(members[label])
        calibration.append(np.sort(order[: wanted - wanted // 2]))
        selection.append(np.sort(order[wanted - wanted // 2 : wanted]))
        rest.append(np.sort(order[wanted:]))
    return rest, _join(calibration), _join(selection)


def select_long_tail(
    members: list[Integers], counts: list[int], seed: int
) -> tuple[list[Integers], list[Integers]]:
    """Choose which images of each class stay, as the published CIFAR-LT code does.

    One legacy NumPy generator for all classes; per class its ascending indices are shuffled and the
    first ``n_c`` stay. The draws do not depend on the counts, so subsets of one seed are nested.

    Args:
        members: Ascending indices per class.
        counts: How many stay per class.
        seed: Of the generator; the published lists have 0.

    Returns:
        Per class the indices that stay and those that do not, in drawn order.

    Source:
        Cao et al. 2019, arXiv 1906.07413; kaidic/LDAM-DRW ``imbalance_cifar.py``. The same draws
        from a private generator: the original re-seeds the whole process.
    """
    legacy = np.random.RandomState(seed % 2**32)
    kept, leftover = [], []
    for indices, count in zip(members, counts, strict=True):
        order = np.sort(indices)
        legacy.shuffle(order)
        kept.append(order[:count])
        leftover.append(order[count:])
    return kept, leftover


def _set_apart(
    data: Data, source: Source, known: list[int], counts: Integers, leftover: list[Integers]
) -> tuple[Integers, list[Integers]]:
    """Take the unlabelled images from what the long tail left over; return them and the rest."""
    if not data.unlabelled.ratio:
        return _join([]), leftover
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
            f"training images left beside {counts[label]} labelled ones, and {wanted[label]} are "
            f"asked for; allowed: {bound}a smaller data.unlabelled.ratio; received "
            f"{data.unlabelled.ratio:g}"
        )
    pairs = list(zip(leftover, wanted, strict=True))
    return _join([images[:n] for images, n in pairs]), [images[n:] for images, n in pairs]


def _part_validation_novel(
    data: Data, source: Source, classes: list[int], members: dict[int, Integers]
) -> _NovelParts:
    """Part each validation-novel class: 1/4 threshold, 1/2 pool, 1/4 held out; no overlap."""
    threshold, pool, held_out = [], [], []
    for label in classes:
        order = generator(data, "validation novel", label).permutation(members[label])
        quarter = len(order) // 4
        if quarter < 1:
            raise ConfigError(
                f"class '{source.class_names[label]}' is a new class of the validation and has "
                f"{len(order)} training images; at least 4 are needed (threshold, pool, held out)"
            )
        threshold.append(np.sort(order[:quarter]))
        held_out.append(np.sort(order[quarter : 2 * quarter]))
        pool.append(np.sort(order[2 * quarter :]))
    return _NovelParts(_join(threshold), _join(pool), _join(held_out))


def _spread(per_class: list[Integers], limit: int) -> Integers:
    """Take at most ``limit`` images, evenly over the classes as far as they have any."""
    turn = np.concatenate([np.arange(len(indices)) for indices in per_class])
    order = np.argsort(turn, kind="stable")[:limit]
    return np.sort(_join(per_class)[order])


def _join(parts: list[Integers]) -> Integers:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def _train_members(source: Source, label: int) -> Integers:
    return np.flatnonzero((source.labels == label) & ~source.is_test).astype(np.int64)


def _test_members(source: Source, classes: list[int]) -> Integers:
    parts = [np.flatnonzero((source.labels == c) & source.is_test) for c in classes]
    for label, part in zip(classes, parts, strict=True):
        if not len(part):
            raise ConfigError(
                f"class '{source.class_names[label]}' has no test images; add some to its test "
                "folder, or use one folder without train/ and test/, which is split 80/20"
            )
    return _join([part.astype(np.int64) for part in parts])
