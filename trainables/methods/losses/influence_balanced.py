"""Influence-balanced loss."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    begun,
    cross_entropy_each,
    full_precision,
    inverse_power_weights,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range


class InfluenceBalanced(Loss):
    """Cross-entropy weighted by the inverse influence of samples and the inverse class count.

    ``loss = mean_i w_{y_i} CE_i alpha / (|p_i - onehot(y_i)|_1 |h_i|_1 + 1e-3)`` with
    ``w_c = C / (n_c sum_j 1 / n_j)``; before ``start``, cross-entropy.

    Args:
        alpha: Factor of the loss, > 0. Default 1000, as in the reference code.
        start: Fraction of training with cross-entropy, in [0, 1]; ``null`` for none. Default 0.5,
            which is epoch 100 of 200.
        variant: ``official`` (default) lets the gradient flow through the denominator, as the
            reference code; ``paper`` treats the weight of a sample as a constant.

    Shapes:
        logits ``[B, C]``, features ``[B, D]`` (the input of the last layer), labels ``[B]`` int64,
        class_counts ``[C]``, progress in [0, 1] -> scalar.

    Lower is better; mean over the batch. A class without samples has the weight of the rarest
    class.

    Source:
        Park et al. 2021, "Influence-Balanced Loss for Imbalanced Visual Classification",
        arXiv:2110.02444, equations 9-10; reference code zhangyongshun/BagofTricks-LT.

    Example:
        >>> loss = InfluenceBalanced(alpha=1.0, start=None)  # log 2 / (1 * 2 + 0.001)
        >>> loss(
        ...     logits=torch.zeros(1, 2),
        ...     features=torch.ones(1, 2),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([1, 1]),
        ... )
        tensor(0.3464)
    """

    alpha: Annotated[float, Field(gt=0), Range(100.0, 10000.0, log=True)] = 1000.0
    start: Annotated[float | None, Field(ge=0, le=1), Choice((0.5, 0.8))] = 0.5
    variant: Literal["paper", "official"] = "official"

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        features: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        progress: float = 0.0,
    ) -> torch.Tensor:
        entropy = cross_entropy_each(logits, labels)
        if self.start is not None and not begun(self.start, progress):
            return entropy.mean()
        logits = full_precision(logits)
        onehot = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits)
        distance = (torch.softmax(logits, dim=1) - onehot).abs().sum(dim=1)
        influence = distance * full_precision(features).abs().sum(dim=1)
        if self.variant == "paper":
            influence = influence.detach()
        weights = inverse_power_weights(class_counts, power=1.0).to(entropy)[labels]
        # 1e-3, as in the reference code, keeps the weight of a sample without influence finite
        return (weights * entropy * self.alpha / (influence + 1e-3)).mean()
