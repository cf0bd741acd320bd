"""Instance-balanced sampling."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import sample_probability
from trainables.methods.samplers import Sampler


class InstanceBalanced(Sampler):
    """Instance-balanced sampling, uniform over samples.

    ``p_i = 1 / N``, so that class c is drawn with probability ``n_c / N``.

    Shapes:
        labels ``[N]`` int64 -> probability ``[N]`` float64, summing to one.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv:1910.09217, section 3 (q = 1).

    Example:
        >>> InstanceBalanced()(labels=torch.tensor([0, 0, 0, 1]))
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """

    def __call__(self, *, labels: torch.Tensor) -> torch.Tensor:
        return sample_probability(labels, torch.clone)
