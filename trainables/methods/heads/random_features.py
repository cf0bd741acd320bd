"""Linear head on random features."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.method import Choice


class RandomFeatures(Head):
    """Linear classifier on random features, which are drawn once and not trained.

    ``logits = relu(x P) W^T + b`` with P ``[D, M]`` of normal numbers of variance 2 / M. P is drawn
    from the seed and not stored. The rebalancer ``ridge`` builds this head; in ``classify.head`` W
    and b are trained by gradient.

    Args:
        width: Number of random features M, >= 1. Default 2000.
        seed: Seed of P.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``.

    Source:
        McDonnell et al. 2023, "RanPAC: Random Projections and Pre-trained Models for Continual
        Learning", arXiv:2307.02251, section 4.1, with M = 10,000 and variance 1; RanPAC/RanPAC
        RanPAC.py.

    Example:
        >>> RandomFeatures(width=8).build(4, 3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    width: Annotated[int, Field(ge=1, le=65536), Choice((500, 1000, 2000, 5000))] = 2000
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.closed_form.projection import RandomFeaturesHead

        return RandomFeaturesHead(num_features, num_classes, width=self.width, seed=self.seed)
