"""Seesaw loss."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    cross_entropy_each,
    filled_counts,
    full_precision,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Range


class Seesaw(Loss):
    """Cross-entropy with reduced penalties on rare classes, increased again for misclassifications.

    ``loss = mean_i -log(exp(z_y) / (exp(z_y) + sum_{j != y} M_yj C_ij exp(z_j)))`` with the
    mitigation factor ``M_yj = min(1, n_j / n_y)^p`` and the compensation factor
    ``C_ij = max(1, s_j / s_y)^q``, where s is the softmax probability, without gradient.

    Args:
        p: Strength of the mitigation, >= 0. Default 0.8.
        q: Strength of the compensation, >= 0. Default 2.
        smallest: Lower bound of ``s_y`` in the compensation, in (0, 1]. Default 0.01, the
            reference code's value; the paper has no bound.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``, class_weights ``[C]`` or
        none -> scalar.

    Lower is better; mean over the batch. A class without samples counts as the rarest class. Equal
    counts and q = 0 give cross-entropy.

    Source:
        Wang et al. 2020, "Seesaw Loss for Long-Tailed Instance Segmentation", arXiv:2008.10032,
        equations 4-8; reference code open-mmlab/mmpretrain, which counts the samples seen so far;
        this loss uses the counts of the training set and has no state.

    Example:
        >>> Seesaw(p=1.0, q=0.0)(  # n_j / n_y = 1/3 gives log(1 + 1/3)
        ...     logits=torch.zeros(1, 2),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([3, 1]),
        ... )
        tensor(0.2877)
    """

    p: Annotated[float, Field(ge=0, le=4), Range(0.2, 1.2)] = 0.8
    q: Annotated[float, Field(ge=0, le=8), Range(0.5, 3.0)] = 2.0
    smallest: Annotated[float, Field(gt=0, le=1)] = 0.01

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = full_precision(logits)
        log_counts = filled_counts(class_counts).log().to(logits)
        mitigation = self.p * (log_counts[None, :] - log_counts[labels, None]).clamp(max=0)
        log_scores = torch.log_softmax(logits.detach(), dim=1)
        true_score = log_scores.gather(1, labels[:, None]).clamp(min=math.log(self.smallest))
        compensation = self.q * (log_scores - true_score).clamp(min=0)
        other = 1 - torch.nn.functional.one_hot(labels, logits.shape[1])
        shifted = logits + (mitigation + compensation) * other
        return weighted_mean(cross_entropy_each(shifted, labels), labels, class_weights)
