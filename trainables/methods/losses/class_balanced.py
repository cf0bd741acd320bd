"""Class-balanced loss by the effective number of samples."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.class_weights import (
    cross_entropy_each,
    effective_number_weights,
    one_versus_rest_each,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range


class ClassBalanced(Loss):
    """Classes weighted by the inverse of their effective number of samples.

    ``w_c ~ (1 - beta) / (1 - beta^n_c)``, rescaled to sum to C. With ``l_i`` the base loss:
    ``sum_i w_{y_i} l_i / sum_i w_{y_i}`` (``batch``) or ``sum_i w_{y_i} l_i / B`` (``plain``).

    Args:
        beta: In [0, 1): 0 is no weighting, near 1 is the inverse class count. Default 0.9999, the
            paper's choice for CIFAR.
        base: ``softmax`` cross-entropy; ``sigmoid``: binary cross-entropies summed over classes;
            ``focal``: the same with the factor ``(1 - pt)^gamma``. For the last two start the
            linear head's bias with ``bias_start: sigmoid``.
        gamma: Focusing parameter of ``focal``, >= 0. Default 1.
        normalize: ``batch`` divides by the weights in the batch, as weighted cross-entropy in torch
            and the PyTorch ports do; ``plain`` divides by the batch size, as the official code.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]`` -> scalar.

    Lower is better; weighted mean over the batch. A class without samples has the weight of the
    rarest class and changes no other weight. Equal counts give the base loss.

    Source:
        Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples",
        arXiv:1901.05555, equations 8-12; reference code richardaecn/class-balanced-loss
        (``plain``) and zhangyongshun/BagofTricks-LT (``batch`` for softmax).

    Example:
        >>> loss = ClassBalanced(beta=0.5, normalize="plain")  # weights 1.2 and 0.8
        >>> loss(
        ...     logits=torch.zeros(1, 2),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([1, 2]),
        ... )
        tensor(0.8318)
    """

    beta: Annotated[float, Field(ge=0, lt=1), Choice((0.9, 0.99, 0.999, 0.9999))] = 0.9999
    base: Annotated[
        Literal["softmax", "sigmoid", "focal"], Choice(("softmax", "sigmoid", "focal"))
    ] = "softmax"
    gamma: Annotated[float, Field(ge=0, le=10), Range(0.5, 2.0)] = 1.0
    normalize: Literal["batch", "plain"] = "batch"

    def __call__(
        self, *, logits: torch.Tensor, labels: torch.Tensor, class_counts: torch.Tensor
    ) -> torch.Tensor:
        weights = effective_number_weights(class_counts, beta=self.beta)
        if self.base == "softmax":
            each = cross_entropy_each(logits, labels)
        else:
            gamma = self.gamma if self.base == "focal" else 0.0
            each = one_versus_rest_each(logits, labels, gamma=gamma)
        if self.normalize == "batch":
            return weighted_mean(each, labels, weights)
        return (each * weights.to(each)[labels]).mean()
