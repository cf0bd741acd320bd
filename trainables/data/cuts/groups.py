"""Groups of images that must not be parted, such as shots of one animal: who goes where, whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trainables.data.source_cache import Integers


def number_groups(names: Sequence[str]) -> Integers | None:
    """Return the number of each image's group ``[M]``; an image without one is one of its own.

    ``None`` where no image has a group.

    Example:
        >>> number_groups(["a", "", "b", "a", ""]).tolist()
        [0, 2, 1, 0, 3]
        >>> number_groups(["", ""])
    """
    numbers = {name: number for number, name in enumerate(sorted({n for n in names if n}))}
    if not numbers:
        return None
    alone = iter(range(len(numbers), len(numbers) + len(names)))
    return np.array([numbers[n] if n else next(alone) for n in names], dtype=np.int64)


def whole_groups(
    labels: Integers,
    groups: Integers,
    wanted: Mapping[int, Sequence[int]],
    rng: np.random.Generator,
) -> Integers:
    """Return the part ``[M]`` of each image, in which its whole group is, whatever its classes.

    Classes of the fewest groups choose first. A class keeps a group for the last part.

    Args:
        labels: Class of each image ``[M]``.
        groups: Group of each image ``[M]``.
        wanted: For each class about how many images the parts 0, 1, ... get; all have as many
            parts. The last part gets what is left.
        rng: Draws the groups.

    Example:
        >>> labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 3])
        >>> part = whole_groups(labels, groups, {0: [1], 1: [1]}, np.random.default_rng(0))
        >>> part.tolist()
        [0, 0, 1, 1, 1, 0]
    """
    part_of: dict[int, int] = {}
    sizes = {label: _sizes(groups[labels == label]) for label in wanted}
    for label in sorted(wanted, key=lambda label: (len(sizes[label]), label)):
        _choose(sizes[label], wanted[label], part_of, rng)
    last = max(map(len, wanted.values()), default=0)
    return np.array([part_of.get(int(group), last) for group in groups], dtype=np.int64)


def _sizes(groups: Integers) -> dict[int, int]:
    """Return the number of images of each group."""
    names, counts = np.unique(groups, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _choose(
    sizes: Mapping[int, int],
    wanted: Sequence[int],
    part_of: dict[int, int],
    rng: np.random.Generator,
) -> None:
    """Give the groups of a class that are free a part; note it in ``part_of``."""
    last = len(wanted)
    held = [0] * (last + 1)
    for group, size in sizes.items():
        held[part_of.get(group, 0)] += size if group in part_of else 0
    free = [int(g) for g in rng.permutation(np.array([*sizes])) if int(g) not in part_of]
    for part, size in enumerate(wanted):
        for group in sorted(free, key=lambda group: sizes[group] > 2 * size):
            if held[part] >= size or (len(free) == 1 and not held[last]):
                break
            if not held[part] or held[part] + sizes[group] / 2 <= size:
                part_of[group] = part
                held[part] += sizes[group]
                free.remove(group)
    part_of.update(dict.fromkeys(free, last))
