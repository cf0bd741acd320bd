"""Groups of images that leave a fit together: of one size side by side, judged ones, folds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trainables.closed_form.statistics import Samples

BLOCK_ELEMENTS = 1 << 22  # of float64 per temporary: 32 MiB
FEWEST_GROUPS = 3  # a class of fewer groups says nothing about how it is recognized


def group_blocks(groups: Tensor, row_elements: int) -> Iterator[Tensor]:
    """Yield the rows of all groups as blocks ``[B, M]``: B groups of M images each.

    Args:
        groups: Group of each image ``[N]`` int64, >= 0; numbers may be skipped.
        row_elements: Elements that a temporary has per image; blocks have at most 2^22 in all, or
            one group.

    Example:
        >>> [block.tolist() for block in group_blocks(torch.tensor([7, 3, 7, 5]), 1)]
        [[[1], [3]], [[0, 2]]]
    """
    for members in groups_of_one_size(groups):
        yield from members.split(max(1, BLOCK_ELEMENTS // (members.shape[1] * row_elements)))


def groups_of_one_size(groups: Tensor) -> Iterator[Tensor]:
    """Yield, for each size g, the positions ``[n, g]`` of the samples of groups of that size."""
    order = groups.argsort(stable=True)
    _, sizes = torch.unique_consecutive(groups[order], return_counts=True)
    ends = sizes.cumsum(0)
    for size in sizes.unique().tolist():
        starts = (ends - sizes)[sizes == size]
        yield order[starts[:, None] + torch.arange(size, device=order.device)]


def groups_of_each_class(labels: Tensor, groups: Tensor, num_classes: int) -> Tensor:
    """Return how many groups have images of each class ``[C]`` int64.

    Example:
        >>> groups_of_each_class(torch.tensor([0, 0, 2]), torch.tensor([9, 5, 9]), 3).tolist()
        [2, 0, 1]
    """
    present, place = groups.unique(return_inverse=True)
    pairs = (labels * len(present) + place).unique()  # of numbers: 6 times as fast as of columns
    return torch.bincount(pairs // max(len(present), 1), minlength=num_classes)


def judging(data: Samples, num_classes: int) -> Tensor:
    """Say for each sample ``[N]`` whether its class has at least 3 groups of positive weight.

    Where fewer than two classes have, none is judged: one class alone is best told by no features.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1, 2])
        >>> judging(samples(torch.zeros(7, 1), labels), 3).tolist()
        [True, True, True, True, True, True, False]
    """
    present = data.weights > 0
    number = groups_of_each_class(data.labels[present], data.groups[present], num_classes)
    enough = number >= FEWEST_GROUPS
    return enough[data.labels] & present & (int(enough.sum()) >= 2)


def folds_of_groups(
    groups: Tensor, labels: Tensor, *, count: int, generator: torch.Generator
) -> Tensor:
    """Return the fold of each image ``[N]`` int64 in 0..count-1; a group is in one fold.

    Groups of each class are spread over the folds as evenly as possible, in random order. A group
    of several classes counts for the class of its first image.

    Args:
        groups: Group of each image ``[N]`` int64.
        labels: Class of each image ``[N]`` int64, >= 0.
        count: Number of folds, >= 2.
        generator: Draws the order, on the CPU.

    Example:
        >>> groups, labels = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 0, 0, 1, 1])
        >>> folds = folds_of_groups(
        ...     groups, labels, count=2, generator=torch.Generator().manual_seed(0)
        ... )
        >>> bool(folds[0] == folds[1]), bool(folds[0] != folds[2]), bool(folds[3] != folds[4])
        (True, True, True)
    """
    _, inverse = groups.unique(return_inverse=True)
    number = int(inverse.max()) + 1 if len(inverse) else 0
    first = torch.full((number,), len(groups), device=groups.device).scatter_reduce(
        0, inverse, torch.arange(len(groups), device=groups.device), "amin"
    )
    order = torch.randperm(number, generator=generator).to(groups.device)
    order = order[labels[first[order]].argsort(stable=True)]  # by class, random within
    fold = torch.empty_like(order)
    fold[order] = torch.arange(number, device=groups.device) % count
    return fold[inverse]
