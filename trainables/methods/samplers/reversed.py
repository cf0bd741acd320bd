"""Reversed sampling."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import sample_probability
from trainables.methods.samplers import Sampler


class Reversed(Sampler):
    """Reversed sampling of classes, inversely proportional to their size.

    ``q_c ~ 1 / n_c``, ``p_i = q_{y_i} / n_{y_i}``.

    Shapes:
        labels ``[N]`` int64 -> probability ``[N]`` float64, summing to one.

    Source:
        Zhou et al. 2020, "BBN: Bilateral-Branch Network with Cumulative Learning",
        arXiv:1912.02413, section 4.2; reference code Megvii-Nanjing/BBN.

    Example:
        >>> Reversed()(labels=torch.tensor([0, 0, 0, 1])).tolist()  # classes 1/4 and 3/4
        [0.08333333333333333, 0.08333333333333333, 0.08333333333333333, 0.75]
    """

    def __call__(self, *, labels: torch.Tensor) -> torch.Tensor:
        return sample_probability(labels, torch.reciprocal)
