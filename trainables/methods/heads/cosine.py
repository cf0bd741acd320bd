"""Cosine head."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.method import Range


class Cosine(Head):
    """Scaled cosine classifier, which ignores the norms of features and class vectors.

    ``logits_c = scale * cos(x, w_c)``; the initial W is drawn from U(-1, 1) with normalized rows.

    Args:
        scale: Factor of the cosine, > 0; with a small factor the softmax stays nearly uniform.
            Default 30, as in LDAM.
        learnable: Train the scale, with the initial value ``scale``.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]`` in ``[-scale, scale]``.

    Source:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        arXiv:1906.07413; reference code kaidic/LDAM-DRW ``NormedLinear``. In the reference code the
        loss applies the scale; here the head does, so that the softmax of the logits is the
        predicted probability.

    Example:
        >>> head = Cosine(scale=2.0).build(2, 1)
        >>> head.weight.data = torch.tensor([[3.0, 0.0]])
        >>> head(torch.tensor([[5.0, 0.0], [0.0, 1.0]])).tolist()
        [[2.0], [0.0]]
    """

    scale: Annotated[float, Field(gt=0, le=1000), Range(4.0, 64.0, log=True)] = 30.0
    learnable: bool = False

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.head_modules import CosineHead

        return CosineHead(num_features, num_classes, scale=self.scale, learnable=self.learnable)
