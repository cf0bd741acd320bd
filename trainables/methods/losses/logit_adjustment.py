"""Logit-adjusted cross-entropy."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    class_prior,
    cross_entropy_each,
    full_precision,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Range


class LogitAdjustment(Loss):
    """Cross-entropy on logits shifted by the log class prior, so that rare classes get a margin.

    ``loss = mean_i CE(z_i + log(pi^tau + 1e-12), y_i)`` with ``pi_c = n_c / N``. Predictions use
    the unshifted logits; a further adjustment after training would correct twice.

    Args:
        tau: Strength, >= 0; 0 is cross-entropy, 1 minimizes the balanced error. Default 1.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``, class_weights ``[C]`` or
        none -> scalar.

    Lower is better; mean over the batch. The prior is computed in float64. The logit of a class
    without samples is shifted by log(1e-12), which is -27.6.

    Source:
        Menon et al. 2020, "Long-Tail Learning via Logit Adjustment", arXiv:2007.07314, equation 10;
        reference code google-research/logit_adjustment, which also has 1e-12 inside the logarithm.

    Example:
        >>> loss = LogitAdjustment()  # -log(3 / 4)
        >>> loss(
        ...     logits=torch.zeros(1, 2),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([3, 1]),
        ... )
        tensor(0.2877)
    """

    tau: Annotated[float, Field(ge=0, le=10), Range(0.25, 2.0)] = 1.0

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = full_precision(logits)
        # the epsilon keeps the shift finite for absent classes and for large tau
        shift = torch.log(class_prior(class_counts).pow(self.tau) + 1e-12)
        each = cross_entropy_each(logits + shift.to(logits), labels)
        return weighted_mean(each, labels, class_weights)
