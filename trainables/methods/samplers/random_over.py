"""Random over-sampling."""

from __future__ import annotations

import torch

from trainables.functional.index_sampling import equal_stream, positions_by_class
from trainables.methods.samplers import Sampler


class RandomOver(Sampler):
    """Random over-sampling, which repeats samples until all classes have the largest class's size.

    A sample of class c occurs ``floor(n_max / n_c)`` times, and a random subset of the class once
    more. An epoch has ``n_max * K`` draws, with K the number of classes that occur.

    Shapes:
        labels ``[N]`` int64 -> indices ``[n_max * K]`` int64, in random order.

    Source:
        Buda et al. 2018, "A Systematic Study of the Class Imbalance Problem in Convolutional Neural
        Networks", arXiv:1710.05381, section 2.2. scikit-learn-contrib/imbalanced-learn instead
        draws the additional samples with replacement.

    Example:
        >>> labels, draw = torch.tensor([0, 0, 0, 1]), torch.Generator().manual_seed(0)
        >>> RandomOver()(labels=labels, generator=draw).sort().values.tolist()
        [0, 1, 2, 3, 3, 3]
    """

    def __call__(self, *, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        largest = max(map(len, positions_by_class(labels)))
        return equal_stream(labels, largest, generator)
