"""Which class plays which part: known, new in the validation, new in the test, and when."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainables.context import derive_seed
from trainables.data.data_settings import Data
from trainables.data.faults import some
from trainables.data.source_cache import Integers, Source
from trainables.errors import ConfigError, did_you_mean

NEW_CLASS_GROUPS = 3  # groups of training images that such a class needs
NEW_CLASS_IMAGES = 4  # training images that a new class of the validation needs


class _Named(NamedTuple):
    novel: list[int]
    validation: list[int]


def generator(data: Data, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by ``data.seed`` and the purpose of its draws."""
    return np.random.default_rng(derive_seed(data.seed, "data", *purpose))


def train_members(source: Source, label: int) -> Integers:
    """Return the training images of a class, ascending."""
    return np.flatnonzero((source.labels == label) & ~source.is_test).astype(np.int64)


def count_units(source: Source, label: int) -> int:
    """Return how many training images of a class there are, or groups of them."""
    members = train_members(source, label)
    return len(members if source.groups is None else np.unique(source.groups[members]))


def split_in_halves(source: Source, classes: list[int]) -> tuple[list[int], list[int]]:
    """Return the new classes that the threshold is fitted on, and those that judge the threshold.

    Classes of one superclass stay on one side where the halves allow it. A single class judges.
    """
    supers = source.superclasses
    ordered = sorted(classes, key=lambda c: (0 if supers is None else supers[c], c))
    return sorted(ordered[: len(ordered) // 2]), sorted(ordered[len(ordered) // 2 :])


def split_classes(data: Data, source: Source) -> tuple[list[int], list[int], list[int]]:
    """Return (known, validation-novel, test-novel) class ids, ascending and disjoint.

    In a closed world all classes are known.

    Raises:
        ConfigError: Fewer than two classes would stay known, or the split method can't choose.
    """
    total = len(source.class_names)
    if data.num_novel == 0:
        return list(range(total)), [], []
    named = _named_classes(data, source)
    if data.num_novel > total - 2:
        allowed = f"2 to {total - 2}" if total > 3 else "0 (with data.validation_novel_classes=0)"
        raise ConfigError(
            f"data.novel_classes: source '{data.source}' has {total} classes and at least 2 must "
            f"stay known; allowed: {allowed}; received {data.num_novel}"
        )
    chosen = data.num_validation_novel
    novel = named.novel or _apply_split(
        data, _can_be_new(data, source), data.num_novel, source, "classes"
    )
    if named.validation:
        validation = named.validation
    elif getattr(data.split, "whole_superclasses", False):
        validation = _apply_split(data, novel, chosen, source, "validation classes")
    else:
        order = generator(data, "validation classes").permutation(novel)
        validation = sorted(int(c) for c in order[:chosen])
    known = sorted(set(range(total)) - set(novel))
    test = sorted(set(novel) - set(validation))
    if len(known) + len(validation) + len(test) != total or not test:
        raise ConfigError(
            f"data.split: {data.split.name} gave {len(novel)} new classes of which "
            f"{len(validation)} for validation; expected {data.num_novel} and {chosen} different "
            "ones"
        )
    return known, validation, test


def _named_classes(data: Data, source: Source) -> _Named:
    """Return the new classes that a recipe names, ascending; none where it gives their number.

    Raises:
        ConfigError: A name is no class of the source.
    """
    found = []
    for setting in ("novel_classes", "validation_novel_classes"):
        chosen = getattr(data, setting)
        names = () if isinstance(chosen, int) else chosen
        for name in names:
            if name not in source.class_names:
                classes = source.class_names
                raise ConfigError(
                    f"data.{setting}: source '{data.source}' has no class '{name}'; allowed: "
                    f"{some(classes, most=12)}{did_you_mean(name, classes)}"
                )
        found.append(sorted(source.class_names.index(name) for name in names))
    return _Named(*found)


def arrived_classes(data: Data, source: Source, test: list[int]) -> tuple[list[int], list[int]]:
    """Return the new classes of the test that have arrived by ``data.phase``, and the later ones.

    Args:
        data: The data settings.
        source: Its source.
        test: The new classes of the test; the phases have equally many, or earlier ones one more.
    """
    order = [int(label) for label in generator(data, "phases").permutation(test)]
    if not isinstance(data.novel_classes, int):
        order = sorted(test, key=[source.class_names.index(n) for n in data.novel_classes].index)
    parts = np.array_split(np.array(order, dtype=np.int64), data.phases)
    later = {int(label) for part in parts[data.phase :] for label in part}
    return [label for label in test if label not in later], sorted(later)


def _can_be_new(data: Data, source: Source) -> list[int]:
    """Return the classes with enough images to play a new class; all where they are too few.

    A split by whole superclasses takes all: it may not keep a part of one known.
    """
    everyone = list(range(len(source.class_names)))
    fit = [
        label
        for label in everyone
        if len(train_members(source, label)) >= NEW_CLASS_IMAGES
        and (source.groups is None or count_units(source, label) >= NEW_CLASS_GROUPS)
        and bool((source.is_test & (source.labels == label)).any())
    ]
    whole = getattr(data.split, "whole_superclasses", False)
    return everyone if whole or len(fit) < data.num_novel else fit


def _apply_split(
    data: Data, classes: list[int], count: int, source: Source, name: str
) -> list[int]:
    """Choose ``count`` of ``classes`` by the split method."""
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
