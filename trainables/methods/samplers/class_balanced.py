"""Class-balanced sampling."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import sample_probability
from trainables.methods.samplers import Sampler


class ClassBalanced(Sampler):
    """Class-balanced sampling, uniform over classes and uniform within each class.

    ``p_i = 1 / (K n_{y_i})`` with K the number of classes that occur among the labels.

    Shapes:
        labels ``[N]`` int64 -> probability ``[N]`` float64, summing to one.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv:1910.09217, section 3 (q = 0); reference code dvlab-research/MiSLAS.

    Example:
        >>> ClassBalanced()(labels=torch.tensor([0, 0, 1])).tolist()
        [0.25, 0.25, 0.5]
    """

    def __call__(self, *, labels: torch.Tensor) -> torch.Tensor:
        return sample_probability(labels, torch.ones_like)
