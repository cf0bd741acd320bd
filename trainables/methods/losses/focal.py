"""Focal loss."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    cross_entropy_each,
    full_precision,
    one_versus_rest_each,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range


class Focal(Loss):
    """Focal loss, cross-entropy with a factor that down-weights well-classified samples.

    ``softmax``: ``mean_i (1 - p_i)^gamma CE_i`` with ``p_i`` the softmax probability of the true
    class; ``detached``: the same value without gradient through the factor; ``sigmoid``: one versus
    rest, ``mean_i sum_k (1 - pt_ik)^gamma BCE_ik``.

    Args:
        gamma: Focusing parameter, >= 0; 0 is cross-entropy. Default 2, as in the paper.
        form: One of the forms above. Default ``softmax``. With ``sigmoid``, set
            ``bias_start: sigmoid`` in the linear head.
        variant: Use of ``class_weights`` in the softmax forms. ``paper``: weighted mean of
            ``(1 - p)^gamma CE``. ``official``: ``mean_i (1 - q_i)^gamma w CE_i`` with
            ``q_i = exp(-w CE_i)``, as LDAM-DRW, where the weight also changes the factor.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_weights ``[C]`` or none -> scalar.

    Lower is better; mean over the batch (over classes the sum, in the ``sigmoid`` form).

    Source:
        Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002, equation 4;
        reference code kaidic/LDAM-DRW (softmax), KaihuaTang/Long-Tailed-Recognition.pytorch
        (detached), zhangyongshun/BagofTricks-LT (sigmoid).

    Example:
        >>> Focal(gamma=1.0)(logits=torch.zeros(1, 2), labels=torch.tensor([0]))  # 0.5 log 2
        tensor(0.3466)
    """

    gamma: Annotated[float, Field(ge=0, le=10), Range(0.5, 3.0)] = 2.0
    form: Annotated[
        Literal["softmax", "detached", "sigmoid"], Choice(("softmax", "detached", "sigmoid"))
    ] = "softmax"
    variant: Literal["paper", "official"] = "paper"

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.form == "sigmoid":
            each = one_versus_rest_each(logits, labels, gamma=self.gamma)
            return weighted_mean(each, labels, class_weights)
        entropy = cross_entropy_each(logits, labels)
        if class_weights is not None and self.variant == "official":
            entropy = entropy * class_weights.to(entropy)[labels]
            return (self._modulator(-torch.expm1(-entropy)) * entropy).mean()
        return weighted_mean(
            self._modulator(_rest(logits, labels)) * entropy, labels, class_weights
        )

    def _modulator(self, rest: torch.Tensor) -> torch.Tensor:
        """Return ``rest^gamma``, where rest = 1 - p."""
        if self.form == "detached":
            rest = rest.detach()
        if self.gamma == 0:
            return torch.ones_like(rest)
        # rest may be 0, where rest^gamma with gamma < 1 has no gradient
        return rest.clamp(min=torch.finfo(rest.dtype).tiny).pow(self.gamma)


def _rest(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the total probability of the other classes, exact where 1 - p would be rounded."""
    logits = full_precision(logits)
    probability = torch.softmax(logits, dim=1)
    true_class = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return probability.masked_fill(true_class, 0.0).sum(dim=1)
