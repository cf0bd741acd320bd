"""Class-aware sampling."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.index_streams import class_aware_stream
from trainables.methods.method import Choice
from trainables.methods.samplers import Sampler


class ClassAware(Sampler):
    """Classes take turns, and so do the samples within a class: balanced without chance.

    In every round all classes that occur are visited in a new order; a visit takes the next
    ``per_visit`` samples of the class, which come in rounds of their own. An epoch has
    ``n_max * K`` draws, many more steps than N: compare by iterations, not by epochs.

    Args:
        per_visit: Samples of one class in a row, >= 1. Default 4, as in the configurations of the
            reference codes; 1 is their code's default.

    Shapes:
        labels ``[N]`` int64 -> positions ``[n_max * K]`` int64.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv:1910.09217, section 4.2; reference code facebookresearch/classifier-balancing and
        dvlab-research/MiSLAS (where every worker draws for itself: here all draw one stream).

    Example:
        >>> labels, draw = torch.tensor([0, 0, 0, 1]), torch.Generator().manual_seed(0)
        >>> labels[ClassAware(per_visit=1)(labels=labels, generator=draw)].bincount().tolist()
        [3, 3]
    """

    per_visit: Annotated[int, Field(ge=1), Choice((1, 4))] = 4

    def __call__(self, *, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return class_aware_stream(labels, self.per_visit, generator)
