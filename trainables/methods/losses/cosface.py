"""CosFace loss, with an additive cosine margin."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import cross_entropy_each, full_precision, weighted_mean
from trainables.methods.losses import Loss
from trainables.methods.method import Range


class CosFace(Loss):
    """Cross-entropy with an additive margin on the cosine of the true class.

    ``loss = CE(z - scale * margin * onehot(y), y)`` for logits ``z = scale * cos``, that is, LDAM
    with the same margin for all classes.

    The logits must be scaled cosines, as those of the head ``cosine``.

    Args:
        margin: Margin of the cosine, in [0, 1]. Default 0.35.
        scale: Scale of the head's logits, > 0. Default 30, as the head's default; 64 in the paper.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64 -> scalar.

    Lower is better; mean over the batch, with ``class_weights`` the weighted mean.

    Source:
        Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition",
        arXiv:1801.09414, equation 4; reference code deepinsight/insightface.

    Example:
        >>> loss = CosFace(margin=0.5, scale=2.0)  # the margin of the logit is 1, so log(1 + e)
        >>> loss(logits=torch.zeros(1, 2), labels=torch.tensor([1]))
        tensor(1.3133)
    """

    margin: Annotated[float, Field(ge=0, le=1), Range(0.05, 0.5)] = 0.35
    scale: Annotated[float, Field(gt=0, le=1000)] = 30.0

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = full_precision(logits)
        onehot = torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits)
        shifted = logits - self.scale * self.margin * onehot
        return weighted_mean(cross_entropy_each(shifted, labels), labels, class_weights)
