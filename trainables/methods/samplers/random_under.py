"""Random under-sampling."""

from __future__ import annotations

import torch

from trainables.index_streams import equal_stream, positions_by_class
from trainables.methods.samplers import Sampler


class RandomUnder(Sampler):
    """Every class is cut to the size of the smallest, a new random part of it in every epoch.

    A sample of class c comes with chance ``n_min / n_c``, at most once. An epoch has ``n_min * K``
    draws, with K the number of classes that occur: few steps, so it needs more epochs.

    Shapes:
        labels ``[N]`` int64 -> positions ``[n_min * K]`` int64, in random order.

    Source:
        Buda et al. 2018, "A Systematic Study of the Class Imbalance Problem in Convolutional Neural
        Networks", arXiv:1710.05381, section 2.2, where one part is kept for the whole training.

    Example:
        >>> labels, draw = torch.tensor([0, 0, 0, 1]), torch.Generator().manual_seed(0)
        >>> labels[RandomUnder()(labels=labels, generator=draw)].bincount().tolist()
        [1, 1]
    """

    def __call__(self, *, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        smallest = min(map(len, positions_by_class(labels)))
        return equal_stream(labels, smallest, generator)
