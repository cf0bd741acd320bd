"""Head with a confidence-dependent correction."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.heads.linear import Linear


class Aligned(Head):
    """Another head, whose logits are scaled and shifted per class as far as the sample asks for it.

    With z the logits of ``base``, ``sigma = sigmoid(v . x + c)`` how much a sample is corrected,
    alpha and beta per class:
    ``paper``: ``sigma (alpha z + beta) + (1 - sigma) z``, at the start (1 and 0) the base head;
    ``official``: ``(1 + sigma alpha) z + sigma beta``, at the start the same predictions, surer.

    The rebalancer ``disalign`` makes it; as head of the first classifier all of it trains together.

    Args:
        base: The head that is corrected. Default linear.
        variant: See above. Default ``paper``.
        start: First value of every entry of v. Default 0.1; c starts at 0.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``.

    Source:
        Zhang et al. 2021, "Distribution Alignment: A Unified Framework for Long-tail Visual
        Recognition", arXiv:2103.16370, equations 4-6; reference code Megvii-BaseDetection/DisAlign
        (segmentation: ``paper``) and cvpods ``DisAlignLinear`` (classification: ``official``),
        whose c starts at random.

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
        from trainables.modules import AlignedHead

        return AlignedHead(
            self.base.build(num_features, num_classes),
            num_features,
            num_classes,
            residual=self.variant == "official",
            start=self.start,
        )
