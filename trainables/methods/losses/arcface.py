"""ArcFace: an additive margin on the angle."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from trainables.class_weights import cross_entropy_each, full_precision, weighted_mean
from trainables.methods.losses import Loss
from trainables.methods.method import Range

EDGE = 1e-6  # the sine has no gradient where the cosine is one


class ArcFace(Loss):
    """Cross-entropy in which the true class has to win by a margin of the angle.

    ``loss = CE(z with z_y = scale * cos(t + margin), y)`` for logits ``z = scale * cos`` and t the
    angle of feature and true class; beyond ``t = pi - margin``, where the cosine would rise again,
    ``z_y = scale * (cos t - margin * sin margin)``, which goes on falling.

    The logits must carry the scale already, as those of the ``cosine`` head do.

    Args:
        margin: m in radians, in [0, 1.5]. Default 0.5.
        scale: The scale of the head's logits, > 0. Default 30, the head's; 64 in the paper.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64 -> scalar.

    Lower is better; mean over the batch, with ``class_weights`` the weighted mean. A logit outside
    of ``[-scale, scale]`` is no cosine and counts as the nearest one.

    Source:
        Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        arXiv:1801.07698, equation 3; reference code deepinsight/insightface.

    Example:
        >>> loss = ArcFace(margin=math.pi / 6, scale=2.0)  # log(1 + e): cos(90 + 30 degrees) = -1/2
        >>> loss(logits=torch.zeros(1, 2), labels=torch.tensor([1]))
        tensor(1.3133)
    """

    margin: Annotated[float, Field(ge=0, le=1.5), Range(0.05, 0.6)] = 0.5
    scale: Annotated[float, Field(gt=0, le=1000)] = 30.0

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        logits = full_precision(logits)
        cosine = (logits.gather(1, labels[:, None]) / self.scale).clamp(EDGE - 1, 1 - EDGE)
        sine = (1 - cosine.square()).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        true = torch.where(cosine > -math.cos(self.margin), turned, beyond)
        shifted = logits.scatter(1, labels[:, None], self.scale * true)
        return weighted_mean(cross_entropy_each(shifted, labels), labels, class_weights)
