"""Several heads that vote."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

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

    Shapes:
        features ``[B, count * D]``, the experts' side by side (``[B, D]`` with ``"nothing"``) ->
        logits ``[B, C]``. The module's ``each`` gives ``[B, count, C]``.

    Raises:
        ValueError: The features can't be shared out evenly.

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

    @property
    def trunk_ending(self) -> str:
        return "" if self.own == "nothing" else f"{self.count}x{self.own}"

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.experts import ExpertsHead

        share = num_features if self.own == "nothing" else num_features // self.count
        if self.own != "nothing" and share * self.count != num_features:
            raise ValueError(
                f"heads/experts.count must divide the feature dimension {num_features}; "
                f"received {self.count}"
            )
        heads = [self.base.build(share, num_classes) for _ in range(self.count)]
        return ExpertsHead(heads, num_features=num_features, shared=self.own == "nothing")
