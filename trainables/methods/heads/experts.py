"""Several experts with mean logits."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from trainables.methods.heads import Head
from trainables.methods.heads.linear import Linear
from trainables.methods.method import Choice


class Experts(Head):
    """Several experts, which are heads of one kind on separate trunk branches, with mean logits.

    The losses ``ride`` and ``sade`` diversify the experts; other losses train the mean logits.

    Args:
        base: Kind of the experts' heads. Default linear; margins (``ride``) need cosine.
        count: Number of experts. Default 3, as in SADE (RIDE: 2 to 4).
        own: Part of the trunk that each expert has a separate copy of: the last ``"stage"``
            (default) or the last ``"block"`` of one of this project's networks, or ``"nothing"``,
            so that all experts get the same features. RIDE and SADE branch one stage earlier, with
            narrower layers.
        weights: Weight of each expert, >= 0; by default all weights are equal. The rebalancer
            ``expert_weights`` learns the weights.

    Shapes:
        features ``[B, count * D]``, concatenated over the experts (``[B, D]`` with ``"nothing"``)
        -> logits ``[B, C]``. The module's ``each`` returns ``[B, count, C]``.

    Raises:
        ValueError: The feature dimension is not a multiple of ``count``, or the number of weights
            is not ``count``.

    Source:
        Wang et al. 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts",
        arXiv:2010.01809, section 3.1; Zhang et al. 2022, "Self-Supervised Aggregation of Diverse
        Experts for Test-Agnostic Long-Tailed Recognition", arXiv:2107.09249, section 4.1.

    Example:
        >>> module = Experts(count=3).build(12, 5)
        >>> module(torch.zeros(2, 12)).shape, module.each(torch.zeros(2, 12)).shape
        (torch.Size([2, 5]), torch.Size([2, 3, 5]))
    """

    base: Head = Linear()
    count: Annotated[int, Field(ge=2, le=9), Choice((2, 3, 4))] = 3
    own: Literal["stage", "block", "nothing"] = "stage"
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = ()

    @model_validator(mode="after")
    def _one_weight_per_expert(self) -> Self:
        if self.weights and (len(self.weights) != self.count or not any(self.weights)):
            raise ValueError(
                f"heads/{self.name}.weights: must be {self.count} numbers, not all zero, or empty; "
                f"received {list(self.weights)}"
            )
        return self

    @property
    def trunk_ending(self) -> str:
        return "" if self.own == "nothing" else f"{self.count}x{self.own}"

    def heads(self, num_features: int, num_classes: int) -> list[torch.nn.Module]:
        """Build the modules of the experts with random weights."""
        width = num_features if self.own == "nothing" else num_features // self.count
        if self.own != "nothing" and width * self.count != num_features:
            raise ValueError(
                f"heads/{self.name}.count must divide the feature dimension {num_features}; "
                f"received {self.count}"
            )
        return [self.base.build(width, num_classes) for _ in range(self.count)]

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.experts import ExpertsHead

        return ExpertsHead(
            self.heads(num_features, num_classes),
            num_features=num_features,
            shared=self.own == "nothing",
            weights=self.weights,
        )
