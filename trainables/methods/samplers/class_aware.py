"""Class-aware sampling."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.index_sampling import class_aware_stream
from trainables.methods.method import Choice
from trainables.methods.samplers import Sampler


class ClassAware(Sampler):
    """Class-aware sampling, which cycles through the classes and through the samples of each class.

    The K classes that occur are visited in consecutive random permutations; a visit takes the next
    ``per_visit`` samples of consecutive random permutations of the class. An epoch has
    ``n_max * K`` draws, which is more than N, so compare runs by iterations, not by epochs.

    Args:
        per_visit: Consecutive samples of one class, >= 1. Default 4, as in the configurations of
            the reference codes, whose default is 1.

    Shapes:
        labels ``[N]`` int64 -> indices ``[n_max * K]`` int64.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv:1910.09217, section 4.2; reference code facebookresearch/classifier-balancing and
        dvlab-research/MiSLAS, whose workers draw independently; here all workers share the draws.

    Example:
        >>> labels, draw = torch.tensor([0, 0, 0, 1]), torch.Generator().manual_seed(0)
        >>> labels[ClassAware(per_visit=1)(labels=labels, generator=draw)].bincount().tolist()
        [3, 3]
    """

    per_visit: Annotated[int, Field(ge=1), Choice((1, 4))] = 4

    def __call__(self, *, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return class_aware_stream(labels, self.per_visit, generator)
