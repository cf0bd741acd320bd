"""Sampling by the effective number of samples per class."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import effective_number, sample_probability
from trainables.methods.method import Choice
from trainables.methods.samplers import Sampler


class EffectiveNumber(Sampler):
    """Sampling inversely proportional to the effective number of samples of each class.

    ``p_i ~ (1 - beta) / (1 - beta^n_{y_i})``, which is instance-balanced at beta = 0 and approaches
    class-balanced at beta = 1.

    Args:
        beta: In [0, 1). Default 0.9999.

    Shapes:
        labels ``[N]`` int64 -> probability ``[N]`` float64, summing to one.

    Source:
        Cui et al. 2019, arXiv:1901.05555, equation 2; kaidic/LDAM-DRW has this sampler but builds
        it after the data loader, which therefore does not use it.

    Example:
        >>> EffectiveNumber(beta=0.5)(labels=torch.tensor([0, 0, 1]))  # ~ 2/3, 2/3, 1
        tensor([0.2857, 0.2857, 0.4286], dtype=torch.float64)
    """

    beta: Annotated[float, Field(ge=0, lt=1), Choice((0.9, 0.99, 0.999, 0.9999))] = 0.9999

    def __call__(self, *, labels: torch.Tensor) -> torch.Tensor:
        return sample_probability(
            labels, lambda counts: counts / effective_number(counts, beta=self.beta)
        )
