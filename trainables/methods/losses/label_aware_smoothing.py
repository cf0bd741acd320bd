"""Label-aware smoothing."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.functional.class_weights import (
    filled_counts,
    smoothed_cross_entropy_each,
    weighted_mean,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Choice, Range


class LabelAwareSmoothing(Loss):
    """Label smoothing, stronger for frequent classes, whose predictions are overconfident.

    With ``u = (n_c - n_min) / (n_max - n_min)``, h = ``head`` and t = ``tail``, the smoothing of
    class c is
    ``concave``: ``t + (h - t) sin(pi u / 2)``; ``linear``: ``t + (h - t) u``; ``convex``:
    ``h + (h - t) sin(3 pi / 2 + pi u / 2)``; ``exponential``: ``t + (h - t) u^power``.

    Args:
        head: Smoothing of the most frequent class, in [0, 1). Default 0.3.
        tail: Smoothing of the rarest class, in [0, 1). Default 0.
        shape: One of the forms above. Default ``concave``.
        power: Power of the shape ``exponential``, > 0.
        variant: ``official`` (default, used for the published results) spreads the mass over all C
            classes, ``paper`` over the C - 1 other classes.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``, class_weights ``[C]`` of the
        true class, or none -> scalar.

    Lower is better; mean over the batch. With equal counts, u is 1 for all classes. A class without
    samples has the smoothing of the rarest class.

    Source:
        Zhong et al. 2021, "Improving Calibration for Long-Tailed Recognition" (MiSLAS),
        arXiv:2104.00466, equations 3-6; reference code dvlab-research/MiSLAS.

    Example:
        >>> loss = LabelAwareSmoothing(head=0.4, tail=0.2, shape="linear")
        >>> loss.smoothing(torch.tensor([9, 5, 1]))
        tensor([0.4000, 0.3000, 0.2000], dtype=torch.float64)
    """

    head: Annotated[float, Field(ge=0, lt=1), Range(0.05, 0.5)] = 0.3
    tail: Annotated[float, Field(ge=0, lt=1), Choice((0.0, 0.05, 0.1))] = 0.0
    shape: Annotated[
        Literal["concave", "linear", "convex", "exponential"],
        Choice(("concave", "linear", "convex")),
    ] = "concave"
    power: Annotated[float, Field(gt=0, le=10)] = 2.0
    variant: Literal["paper", "official"] = "official"

    def smoothing(self, class_counts: torch.Tensor) -> torch.Tensor:
        """Return the smoothed mass of each class ``[C]`` in float64."""
        counts = filled_counts(class_counts)
        spread = counts.max() - counts.min()
        relative_size = (counts - counts.min()) / spread.clamp(min=1)
        relative_size = torch.where(spread > 0, relative_size, torch.ones_like(relative_size))
        height = self.head - self.tail
        if self.shape == "concave":
            return self.tail + height * torch.sin(relative_size * math.pi / 2)
        if self.shape == "convex":
            return self.head + height * torch.sin(1.5 * math.pi + relative_size * math.pi / 2)
        return self.tail + height * (
            relative_size if self.shape == "linear" else relative_size.pow(self.power)
        )

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        class_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        each = smoothed_cross_entropy_each(
            logits, labels, self.smoothing(class_counts)[labels], others=self.variant == "paper"
        )
        return weighted_mean(each, labels, class_weights)
