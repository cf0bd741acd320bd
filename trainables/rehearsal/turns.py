"""Which known classes play new, and which of them together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.functional.l2_normalize import l2_normalize

MOST_TURNS = 100  # classes play new one by one, or, where there are more, in as many folds


class Cast(NamedTuple):
    """The classes that play new in one turn, by number.

    Attributes:
        new: All that are new, ascending.
        asked: Those of which the turn tells figures.
    """

    new: tuple[int, ...]
    asked: tuple[int, ...]


def turns(playing: list[int], *, generator: torch.Generator, most: int = MOST_TURNS) -> list[Cast]:
    """Return turns in which each class plays new once: alone, or in folds of equal size.

    Args:
        playing: The classes that play new.
        generator: Draws the folds.
        most: Largest number of turns.

    Example:
        >>> [cast.new for cast in turns([0, 2, 5], generator=torch.Generator())]
        [(0,), (2,), (5,)]
        >>> sorted(len(cast.new) for cast in turns([0, 2, 5], generator=torch.Generator(), most=2))
        [1, 2]
    """
    if len(playing) <= most:
        return [Cast((label,), (label,)) for label in playing]
    order = torch.randperm(len(playing), generator=generator).tolist()
    folds = [tuple(sorted(playing[place] for place in order[first::most])) for first in range(most)]
    return [Cast(fold, fold) for fold in folds]


def turns_with_neighbors(
    playing: list[int], features: Tensor, labels: Tensor, *, number: int
) -> list[Cast]:
    """Return turns in which each class plays new together with the classes most like it.

    Look-alikes that are known catch the images of a new class, and those that are new with it do
    not: one by one, a class is noticed less often than in folds with its look-alikes.

    Args:
        playing: The classes that play new.
        features: ``[N, D]``.
        labels: ``[N]``.
        number: Neighbors that leave with a class: those of the largest cosine of class means, after
            the mean of all classes is subtracted. At least two classes stay known, if there are.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]])
        >>> labels = torch.arange(4)
        >>> [cast.new for cast in turns_with_neighbors([0, 2], features, labels, number=1)]
        [(0, 1), (2, 3)]
    """
    present, place = labels.unique(return_inverse=True)
    counts = torch.bincount(place).double()
    sums = features.new_zeros(len(present), features.shape[1], dtype=torch.float64)
    means = sums.index_add_(0, place, features.double()) / counts[:, None]
    units = l2_normalize(means - means.mean(dim=0))
    alike = (units @ units.T).fill_diagonal_(-torch.inf)
    number = max(0, min(number, len(present) - 3))
    casts = []
    for label in playing:
        row = int((present == label).nonzero())
        nearest = present[alike[row].topk(number).indices].tolist()
        casts.append(Cast(tuple(sorted([label, *nearest])), (label,)))
    return casts
