"""Flooding: a floor under another loss."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator

from trainables.methods.losses import Loss
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.method import Range


class Flooding(Loss):
    """Another loss that is kept from falling below a level: below it, the gradient turns around.

    ``loss = |base - level| + level`` on the batch mean of the base loss.

    Args:
        base: The loss. Default cross_entropy.
        level: The flood level, >= 0; 0 is the base loss where that is not negative. Default 0.05.

    Shapes:
        What the base needs of logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``,
        features ``[B, D]``, progress in [0, 1] -> scalar.

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

    def phase(self, progress: float) -> Hashable | None:
        """Return the phase of the base."""
        return self.base.phase(progress)

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
        loss: torch.Tensor = self.base.supplied(available)
        return (loss - self.level).abs() + self.level
