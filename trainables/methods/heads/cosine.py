"""Cosine head."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.method import Range


class Cosine(Head):
    """Scaled cosine classifier: only the direction of features and class vectors counts.

    ``logits_c = scale * cos(x, w_c)``; W is drawn from U(-1, 1) and its rows are normalised.

    Args:
        scale: Factor on the cosine, > 0: with 1 a softmax could not get confident. Default 30, the
            scale of LDAM.
        learnable: Train the scale, starting from ``scale``.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]`` in ``[-scale, scale]``.

    Source:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        arXiv:1906.07413; reference code kaidic/LDAM-DRW ``NormedLinear``, which keeps the scale in
        the loss: here it is in the head, so that softmax of the logits is a probability.

    Example:
        >>> head = Cosine(scale=2.0).build(2, 1)
        >>> head.weight.data = torch.tensor([[3.0, 0.0]])
        >>> head(torch.tensor([[5.0, 0.0], [0.0, 1.0]])).tolist()
        [[2.0], [0.0]]
    """

    scale: Annotated[float, Field(gt=0, le=1000), Range(4.0, 64.0, log=True)] = 30.0
    learnable: bool = False

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.modules import CosineHead

        return CosineHead(num_features, num_classes, scale=self.scale, learnable=self.learnable)
