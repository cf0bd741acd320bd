"""Balanced softmax."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import cross_entropy_each, full_precision, weighted_mean
from trainables.methods.losses import Loss


class BalancedSoftmax(Loss):
    """Cross-entropy of a softmax in which each class is weighted by its count.

    ``loss = mean_i -log(n_y exp(z_y) / sum_c n_c exp(z_c))``. Predictions use the unweighted
    softmax.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``, class_weights ``[C]`` or
        none -> scalar.

    Lower is better; mean over the batch. Equals ``logit_adjustment`` with tau = 1 without epsilon.
    A class without samples counts as 1e-12 of all samples. Cosine logits need a scale, because the
    log counts exceed logits within [-1, 1].

    Source:
        Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
        arXiv:2007.10740, equation 4; reference code jiawei-ren/BalancedMetaSoftmax.

    Example:
        >>> BalancedSoftmax()(  # -log(3 / 4)
        ...     logits=torch.zeros(1, 2),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([3, 1]),
        ... )
        tensor(0.2877)
    """

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = full_precision(logits)
        counts = class_counts.double()
        # the log of a zero count would give an infinite loss for a label of that class
        floor = 1e-12 * counts.sum().clamp(min=1)
        shift = torch.log(torch.maximum(counts, floor)).to(logits)
        return weighted_mean(cross_entropy_each(logits + shift, labels), labels, class_weights)
