"""Label-distribution-aware margin loss (LDAM)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    begun,
    cross_entropy_each,
    effective_number_weights,
    filled_counts,
    full_precision,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range


class LDAM(Loss):
    """Cross-entropy with larger margins for rarer classes, and deferred re-weighting (DRW).

    ``loss = CE(z - scale * m_y * onehot(y), y)`` with ``m_c = max_margin * (n_c / n_min)^(-1/4)``,
    so the rarest class has ``max_margin``. From ``reweight_from`` on, the mean is weighted by the
    effective number of samples.

    The logits must be scaled cosines, as those of the head ``cosine``.

    Args:
        max_margin: Margin of the rarest class, as a cosine, > 0. Default 0.5.
        scale: Scale of the head's logits, > 0. Default 30.
        reweight_from: Fraction of training after which classes are weighted, in [0, 1]; ``null``
            for never. Default 0.8, which is epoch 160 of 200, counted from 0.
        beta: Parameter of the effective number, in [0, 1). Default 0.9999.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``, progress in [0, 1] -> scalar.

    Lower is better; mean over the batch. Without ``progress`` classes are not weighted; the
    argument ``class_weights`` replaces the effective-number weights. A class without samples has
    the margin of the rarest class.

    Source:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        arXiv:1906.07413, equations 11-13; reference code kaidic/LDAM-DRW, in which the loss instead
        of the head applies the scale, with the same value.

    Example:
        >>> loss = LDAM(max_margin=0.5, scale=2.0)  # the margin of the logit is 1, so log(1 + e)
        >>> loss(
        ...     logits=torch.zeros(1, 2),
        ...     labels=torch.tensor([1]),
        ...     class_counts=torch.tensor([9, 1]),
        ... )
        tensor(1.3133)
    """

    max_margin: Annotated[float, Field(gt=0, le=2), Range(0.1, 0.8)] = 0.5
    scale: Annotated[float, Field(gt=0, le=1000)] = 30.0
    reweight_from: Annotated[float | None, Field(ge=0, le=1), Choice((0.6, 0.8, 0.9))] = 0.8
    beta: Annotated[float, Field(ge=0, lt=1), Choice((0.99, 0.999, 0.9999))] = 0.9999

    def margins(self, class_counts: torch.Tensor) -> torch.Tensor:
        """Return the margin of each class ``[C]`` in float64, as a cosine."""
        counts = filled_counts(class_counts)
        return self.max_margin * (counts / counts.min()).pow(-0.25)

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        progress: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = full_precision(logits)
        margin = (self.scale * self.margins(class_counts)).to(logits)[labels]
        shift = torch.nn.functional.one_hot(labels, logits.shape[1]) * margin[:, None]
        if class_weights is None and begun(self.reweight_from, progress):
            class_weights = effective_number_weights(class_counts, beta=self.beta)
        return weighted_mean(cross_entropy_each(logits - shift, labels), labels, class_weights)
