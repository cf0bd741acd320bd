"""Deferred re-weighting (DRW)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from trainables.functional.class_weights import (
    begun,
    effective_number_weights,
    inverse_power_weights,
)
from trainables.methods.losses import Loss
from trainables.methods.losses.cross_entropy import CrossEntropy
from trainables.methods.method import Choice, Range


class Deferred(Loss):
    """Deferred re-weighting: a base loss with class weights in the last part of training.

    From ``start`` on, the base loss gets class weights by effective number,
    ``w_c ~ (1 - beta) / (1 - beta^n_c)``, or by power, ``w_c ~ n_c^(-power)``, with mean one.

    Args:
        base: A loss with the argument ``class_weights``. Default cross_entropy.
        start: Fraction of training, in [0, 1]. Default 0.8, which is epoch 160 of 200, counted from
            0.
        weighting: ``effective_number`` (default) or ``power``.
        beta: Parameter of the effective number, in [0, 1). Default 0.9999.
        power: Power of the inverse class count, >= 0. Default 1.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]``, progress in [0, 1], features
        ``[B, D]`` if the base needs them -> scalar.

    Lower is better; reduced over the batch by the base loss.

    Raises:
        ValueError: The base loss has no argument ``class_weights``.

    Source:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        arXiv:1906.07413, algorithm 1; reference code kaidic/LDAM-DRW (effective number with
        0.9999, where the paper's text says inverse frequency).

    Example:
        >>> loss = Deferred(weighting="power")  # weights 0.5 and 1.5
        >>> loss(
        ...     logits=torch.tensor([[0.0, 0.0], [30.0, 0.0]]),
        ...     labels=torch.tensor([0, 0]),
        ...     class_counts=torch.tensor([3, 1]),
        ...     progress=1.0,
        ... )
        tensor(0.3466)
    """

    base: Loss = CrossEntropy()
    start: Annotated[float, Field(ge=0, le=1), Range(0.5, 0.95)] = 0.8
    weighting: Annotated[
        Literal["effective_number", "power"], Choice(("effective_number", "power"))
    ] = "effective_number"
    beta: Annotated[float, Field(ge=0, lt=1), Choice((0.99, 0.999, 0.9999))] = 0.9999
    power: Annotated[float, Field(ge=0, le=4), Range(0.25, 1.5)] = 1.0

    @model_validator(mode="after")
    def _base_takes_weights(self) -> Self:
        takes = type(self.base).__call__.__kwdefaults__ or {}
        if "class_weights" not in takes:
            raise ValueError(f"losses/deferred.base: '{self.base.name}' takes no class_weights")
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
        if begun(self.start, progress):
            available["class_weights"] = self._weights(class_counts)
        loss: torch.Tensor = self.base.call_with(available)
        return loss

    def _weights(self, class_counts: torch.Tensor) -> torch.Tensor:
        """Return the class weights ``[C]`` of the last part of training."""
        if self.weighting == "power":
            return inverse_power_weights(class_counts, power=self.power)
        return effective_number_weights(class_counts, beta=self.beta)
