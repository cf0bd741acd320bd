"""Sampling by a power of the class size."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import sample_probability
from trainables.methods.method import Range
from trainables.methods.samplers import Sampler


class Power(Sampler):
    """Sampling of classes proportional to a power of their size.

    ``q_c ~ n_c^q``, ``p_i = q_{y_i} / n_{y_i}``.

    Args:
        q: Power in [-2, 2]; 1 is instance-balanced, 1/2 (default) square-root, 0 class-balanced, -1
            reversed.

    Shapes:
        labels ``[N]`` int64 -> probability ``[N]`` float64, summing to one.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv:1910.09217, equation 1.

    Example:
        >>> Power(q=0.0)(labels=torch.tensor([0, 0, 1])).tolist()
        [0.25, 0.25, 0.5]
    """

    q: Annotated[float, Field(ge=-2, le=2), Range(-1.0, 1.0)] = 0.5

    def __call__(self, *, labels: torch.Tensor) -> torch.Tensor:
        return sample_probability(labels, lambda counts: counts.pow(self.q))
