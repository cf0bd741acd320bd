"""Flooding, a lower bound of the training loss."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from trainables.methods.losses import Loss
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.method import Range


class Flooding(Loss):
    """Flooding: the gradient of a base loss changes its sign below a flood level.

    ``loss = |base - level| + level`` with the batch mean of the base loss.

    Args:
        base: The base loss. Default cross_entropy.
        level: Flood level, >= 0; 0 gives a nonnegative base loss unchanged. Default 0.05.

    Shapes:
        Required inputs of the base, of logits ``[B, C]``, labels ``[B]`` int64, class_counts
        ``[C]``, features ``[B, D]`` and progress in [0, 1] -> scalar.

    Lower is better, down to ``level``.

    Raises:
        ValueError: The base needs projections; put flooding inside ``joint``.

    Source:
        Ishida et al. 2020, "Do We Need Zero Training Loss After Achieving Zero Training Error?",
        arXiv:2002.08709, equation 2.

    Example:
        >>> Flooding(level=1.0)(  # |log 2 - 1| + 1
        ...     logits=torch.zeros(1, 2),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([1, 1]),
        ... )
        tensor(1.3069)
    """

    base: Loss = CrossEntropy()
    level: Annotated[float, Field(ge=0, le=10), Range(0.01, 0.3, log=True)] = 0.05

    @model_validator(mode="after")
    def _base_gets_what_it_needs(self) -> Self:
        self.check_base("base", self.base)
        return self

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        progress: float = 0.0,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        available = {
            "logits": logits,
            "labels": labels,
            "class_counts": class_counts,
            "progress": progress,
        }
        if features is not None:
            available["features"] = features
        loss: torch.Tensor = self.base.call_with(available)
        return (loss - self.level).abs() + self.level
