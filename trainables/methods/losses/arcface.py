"""ArcFace loss, with an additive angular margin."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import cross_entropy_each, full_precision, weighted_mean
from trainables.methods.losses import Loss
from trainables.methods.method import Range

EDGE = 1e-6  # distance of cosines to 1, where the sine has no gradient


class ArcFace(Loss):
    """Cross-entropy with an additive margin on the angle between feature and true class.

    ``loss = CE(z with z_y = scale * cos(t + margin), y)`` for logits ``z = scale * cos`` and t the
    angle between feature and true class. Beyond ``t = pi - margin``, where the cosine would
    increase again, ``z_y = scale * (cos t - margin * sin margin)``, which keeps decreasing.

    The logits must be scaled cosines, as those of the head ``cosine``.

    Args:
        margin: Margin in radians, in [0, 1.5]. Default 0.5.
        scale: Scale of the head's logits, > 0. Default 30, as the head's default; 64 in the paper.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64 -> scalar.

    Lower is better; mean over the batch, with ``class_weights`` the weighted mean. A logit outside
    ``[-scale, scale]`` is clamped.

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
