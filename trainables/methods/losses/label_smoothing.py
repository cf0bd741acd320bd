"""Label smoothing."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    full_precision,
    smoothed_cross_entropy_each,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Range


class LabelSmoothing(Loss):
    """Cross-entropy to smoothed targets.

    ``all``: target ``(1 - epsilon) onehot + epsilon / C``; ``others``: ``1 - epsilon`` on the true
    class and ``epsilon / (C - 1)`` on each other class.

    Args:
        epsilon: Smoothed mass, in [0, 1). 0 is cross-entropy. Default 0.1.
        spread: Classes that get the smoothed mass. Default ``all``, as in the paper and in torch.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_weights ``[C]`` of the true class, or none
        -> scalar.

    Lower is better; mean over the batch. With one class the loss is 0. ``class_weights`` weight
    samples by their label; torch weights each term of the smoothed target.

    Source:
        Szegedy et al. 2015, "Rethinking the Inception Architecture", arXiv:1512.00567, section 7;
        `torch.nn.functional.cross_entropy` (``all``).

    Example:
        >>> LabelSmoothing(epsilon=0.2)(  # 0.9 * 0 + 0.1 * 20
        ...     logits=torch.tensor([[20.0, 0.0]]), labels=torch.tensor([0])
        ... )
        tensor(2.)
    """

    epsilon: Annotated[float, Field(ge=0, lt=1), Range(0.02, 0.3)] = 0.1
    spread: Literal["all", "others"] = "all"

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dtype = full_precision(logits).dtype
        epsilon = torch.full(labels.shape, self.epsilon, dtype=dtype, device=labels.device)
        each = smoothed_cross_entropy_each(logits, labels, epsilon, others=self.spread == "others")
        return weighted_mean(each, labels, class_weights)
