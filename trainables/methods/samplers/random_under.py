"""Random under-sampling."""

from __future__ import annotations

import torch

from trainables.functional.index_sampling import equal_stream, positions_by_class
from trainables.methods.samplers import Sampler


class RandomUnder(Sampler):
    """Random under-sampling, with a new random subset of the smallest class's size in every epoch.

    A sample of class c occurs at most once, with probability ``n_min / n_c``. An epoch has only
    ``n_min * K`` draws, with K the number of classes that occur, so more epochs are needed.

    Shapes:
        labels ``[N]`` int64 -> indices ``[n_min * K]`` int64, in random order.

    Source:
        Buda et al. 2018, "A Systematic Study of the Class Imbalance Problem in Convolutional Neural
        Networks", arXiv:1710.05381, section 2.2, with one subset for the whole training.

    Example:
        >>> labels, draw = torch.tensor([0, 0, 0, 1]), torch.Generator().manual_seed(0)
        >>> labels[RandomUnder()(labels=labels, generator=draw)].bincount().tolist()
        [1, 1]
    """

    def __call__(self, *, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        smallest = min(map(len, positions_by_class(labels)))
        return equal_stream(labels, smallest, generator)
