"""Square-root sampling."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import sample_probability
from trainables.methods.samplers import Sampler


class SquareRoot(Sampler):
    """Sampling of classes proportional to the square root of their size.

    ``q_c ~ n_c^(1/2)``, ``p_i = q_{y_i} / n_{y_i}``, between instance- and class-balanced sampling.

    Shapes:
        labels ``[N]`` int64 -> probability ``[N]`` float64, summing to one.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv:1910.09217, section 3 (q = 1/2); reference code facebookresearch/classifier-balancing.

    Example:
        >>> SquareRoot()(labels=torch.tensor([0, 0, 0, 0, 1]))  # classes 2/3 and 1/3
        tensor([0.1667, 0.1667, 0.1667, 0.1667, 0.3333], dtype=torch.float64)
    """

    def __call__(self, *, labels: torch.Tensor) -> torch.Tensor:
        return sample_probability(labels, torch.sqrt)
