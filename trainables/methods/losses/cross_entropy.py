"""Cross-entropy."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import cross_entropy_each, weighted_mean
from trainables.methods.losses import Loss


class CrossEntropy(Loss):
    """Cross-entropy, the negative log-probability of the true class.

    ``loss = mean_i -log softmax(z_i)[y_i]``; with ``class_weights`` the weighted mean
    ``sum_i w_{y_i} l_i / sum_i w_{y_i}``.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_weights ``[C]`` or none -> scalar.

    Lower is better; mean over the batch; bf16 logits are computed in float32.

    Source:
        `torch.nn.functional.cross_entropy`.

    Example:
        >>> CrossEntropy()(logits=torch.zeros(1, 2), labels=torch.tensor([0]))  # log 2
        tensor(0.6931)
    """

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return weighted_mean(cross_entropy_each(logits, labels), labels, class_weights)
