"""Head with a confidence-dependent correction."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.heads.linear import Linear


class Aligned(Head):
    """Head with logits of a base head, scaled and shifted by a confidence of each sample.

    With z the logits of ``base``, confidence ``sigma = sigmoid(v . x + c)`` and alpha, beta per
    class (initially 1 and 0), the logits are
    ``paper``: ``sigma (alpha z + beta) + (1 - sigma) z``, initially those of the base head;
    ``official``: ``(1 + sigma alpha) z + sigma beta``, initially a multiple of the base head's.

    The rebalancer ``disalign`` builds this head; in ``classify.head`` all its parameters are
    trained together.

    Args:
        base: The base head. Default linear.
        variant: One of the forms above. Default ``paper``.
        start: Initial value of each entry of v. Default 0.1; c is initially 0.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``.

    Source:
        Zhang et al. 2021, "Distribution Alignment: A Unified Framework for Long-tail Visual
        Recognition", arXiv:2103.16370, equations 4-6; reference code Megvii-BaseDetection/DisAlign
        (segmentation: ``paper``) and cvpods ``DisAlignLinear`` (classification: ``official``),
        with a random initial c.

    Example:
        >>> head = Aligned(variant="official").build(2, 3)  # sigma = 1/2 at a feature of zero
        >>> head.base.bias.data = torch.tensor([2.0, 0.0, -2.0])
        >>> head(torch.zeros(1, 2)).tolist()
        [[3.0, 0.0, -3.0]]
    """

    base: Head = Linear()
    variant: Literal["paper", "official"] = "paper"
    start: Annotated[float, Field(ge=-10, le=10)] = 0.1

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.head_modules import AlignedHead

        return AlignedHead(
            self.base.build(num_features, num_classes),
            num_features,
            num_classes,
            residual=self.variant == "official",
            start=self.start,
        )
