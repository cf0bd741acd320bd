"""Cost-sensitive cross-entropy."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    cross_entropy_each,
    inverse_power_weights,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Range


class CostSensitive(Loss):
    """Cross-entropy weighted by a power of the inverse class count.

    ``loss = sum_i w_{y_i} CE_i / sum_i w_{y_i}`` with ``w_c = (n_min / n_c)^gamma``; the scale of
    the weights cancels.

    Args:
        gamma: Power, >= 0; 0 is cross-entropy, 0.5 the square-root form, 1 (default) the inverse
            count. Generalized re-weighting uses values above 1 (1.2 for ImageNet-LT).

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]`` -> scalar.

    Lower is better; weighted mean over the batch. With many rare classes, weights from the first
    epoch on often give lower accuracy than cross-entropy; see ``deferred``.

    Source:
        Japkowicz & Stephen 2002, "The Class Imbalance Problem"; reference code
        zhangyongshun/BagofTricks-LT ``CS_CE``. Zhang et al. 2021, "Distribution Alignment",
        arXiv:2103.16370, equation 9, has the same weights up to scale (rho = gamma).

    Example:
        >>> CostSensitive()(  # weights 1/3 and 1: (1/3 * log 2 + 1 * 0) / (4/3)
        ...     logits=torch.tensor([[0.0, 0.0], [0.0, 40.0]]),
        ...     labels=torch.tensor([0, 1]),
        ...     class_counts=torch.tensor([3, 1]),
        ... )
        tensor(0.1733)
    """

    gamma: Annotated[float, Field(ge=0, le=4), Range(0.25, 1.5)] = 1.0

    def __call__(
        self, *, logits: torch.Tensor, labels: torch.Tensor, class_counts: torch.Tensor
    ) -> torch.Tensor:
        weights = inverse_power_weights(class_counts, power=self.gamma)
        return weighted_mean(cross_entropy_each(logits, labels), labels, weights)
