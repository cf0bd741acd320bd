"""Several heads that vote."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from trainables.methods.heads import Head
from trainables.methods.heads.linear import Linear
from trainables.methods.method import Choice


class Experts(Head):
    """Several experts: heads of one kind, each on features of its own; their mean logits decide.

    The losses ``ride`` and ``sade`` make them differ; any other loss trains their mean.

    Args:
        base: Kind of the experts' heads. Default linear; margins (``ride``) need cosine.
        count: How many. Default 3, as in SADE (RIDE: 2 to 4).
        own: What of the trunk each expert has for itself: its last ``"stage"`` (default) or
            ``"block"``, where the trunk is one of this project's own networks; ``"nothing"``: all
            see the same features. RIDE and SADE branch one stage earlier, with narrower layers.
        weights: How much each expert counts, one number per expert, >= 0; none (default): all
            alike. The rebalancer ``expert_weights`` learns them.

    Shapes:
        features ``[B, count * D]``, the experts' side by side (``[B, D]`` with ``"nothing"``) ->
        logits ``[B, C]``. The module's ``each`` gives ``[B, count, C]``.

    Raises:
        ValueError: The features can't be shared out evenly, or the weights are not one per expert.

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
                f"heads/{self.name}.weights: must be {self.count} numbers, not all zero, or none; "
                f"received {list(self.weights)}"
            )
        return self

    @property
    def trunk_ending(self) -> str:
        return "" if self.own == "nothing" else f"{self.count}x{self.own}"

    def heads(self, num_features: int, num_classes: int) -> list[torch.nn.Module]:
        """Return the modules of the experts, freshly drawn."""
        share = num_features if self.own == "nothing" else num_features // self.count
        if self.own != "nothing" and share * self.count != num_features:
            raise ValueError(
                f"heads/{self.name}.count must divide the feature dimension {num_features}; "
                f"received {self.count}"
            )
        return [self.base.build(share, num_classes) for _ in range(self.count)]

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.experts import ExpertsHead

        return ExpertsHead(
            self.heads(num_features, num_classes),
            num_features=num_features,
            shared=self.own == "nothing",
            weights=self.weights,
        )
