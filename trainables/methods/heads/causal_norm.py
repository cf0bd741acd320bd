"""Causal normalized head (TDE)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.method import Choice, Range


class CausalNorm(Head):
    """Multi-head normalized classifier; predictions remove the effect of the mean feature.

    In training ``z = (tau / H) sum_h u_h . w_h / (|w_h| + gamma)`` with ``u_h = x_h / |x_h|`` for H
    equal blocks of the feature, without bias; ``m <- 0.9 m + mean(batch)`` is the mean feature. In
    a prediction (total direct effect, TDE) ``u_h - alpha (u_h . c_h) c_h`` replaces ``u_h``, with
    ``c_h = m_h / |m_h|``.

    Args:
        num_heads: H, >= 1, a divisor of the feature dimension. Default 2.
        tau: Scale of the logits, > 0. Default 16.
        gamma: Constant added to the norm of a class vector, >= 0. Default 1/32.
        alpha: Strength of the correction in predictions, >= 0; 0 for none. Default 1.5, as in the
            reference code for CIFAR-100 (1 for CIFAR-10, 3 for ImageNet-LT). The rebalancer
            ``tde`` can change alpha after training; alpha times the mean cosine should be about 1.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``.

    Raises:
        ValueError: ``build`` gets a feature dimension that is not a multiple of ``num_heads``.

    Source:
        Tang et al. 2020, "Long-Tailed Classification by Keeping the Good and Removing the Bad
        Momentum Causal Effect", arXiv:2009.12991, equations 8-10; reference code
        KaihuaTang/Long-Tailed-Recognition.pytorch, which divides by zero if the mean feature is
        zero; this implementation then applies no correction.

    Example:
        >>> head = CausalNorm(num_heads=1, tau=1.0, gamma=0.0, alpha=1.0).build(2, 2)
        >>> head.weight.data = torch.eye(2)
        >>> head.mean_feature.copy_(torch.tensor([9.0, 0.0]))  # along the first axis
        tensor([9., 0.])
        >>> head.eval()(torch.tensor([[4.0, 3.0]])).tolist()  # (0.8, 0.6) without that component
        [[0.0, 0.6000000238418579]]
    """

    num_heads: Annotated[int, Field(ge=1), Choice((1, 2, 4))] = 2
    tau: Annotated[float, Field(gt=0, le=1000), Range(8.0, 32.0, log=True)] = 16.0
    gamma: Annotated[float, Field(ge=0, le=10)] = 0.03125
    alpha: Annotated[float, Field(ge=0, le=100), Range(0.5, 4.0)] = 1.5

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.head_modules import CausalNormHead

        return CausalNormHead(
            num_features,
            num_classes,
            num_heads=self.num_heads,
            tau=self.tau,
            gamma=self.gamma,
            alpha=self.alpha,
        )
