"""Class-balanced loss, weighted by the effective number of samples."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    cross_entropy_each,
    effective_number_weights,
    one_versus_rest_each,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range


class ClassBalanced(Loss):
    """Loss weighted by the inverse effective number of samples of each class.

    ``w_c ~ (1 - beta) / (1 - beta^n_c)``, rescaled to sum to C. With base loss ``l_i`` the loss is
    ``sum_i w_{y_i} l_i / sum_i w_{y_i}`` (``batch``) or ``sum_i w_{y_i} l_i / B`` (``plain``).

    Args:
        beta: In [0, 1); 0 gives equal weights, values near 1 approach the inverse class count.
            Default 0.9999, the paper's choice for CIFAR.
        base: Base loss: ``softmax`` is cross-entropy, ``sigmoid`` the sum of binary cross-entropies
            over classes, ``focal`` the same with the factor ``(1 - pt)^gamma``. With the last two,
            set ``bias_start: sigmoid`` in the linear head.
        gamma: Focusing parameter of ``focal``, >= 0. Default 1.
        normalize: ``batch`` divides by the sum of weights in the batch, as torch's weighted
            cross-entropy and the PyTorch ports; ``plain`` divides by the batch size, as the
            reference code.

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
