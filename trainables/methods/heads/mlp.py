"""MLP head with one hidden layer."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head
from trainables.methods.method import Choice, Range


class MLP(Head):
    """MLP head: a hidden layer with ReLU, then a linear classifier.

    ``logits = relu(x V^T + a) W^T + b``, both layers initialized as `torch.nn.Linear`.

    Args:
        hidden: Width of the hidden layer, >= 1. Default 256.
        dropout: Dropout probability of the hidden units, in [0, 1). Default 0.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``.

    Source:
        Rumelhart et al. 1986, "Learning Representations by Back-Propagating Errors".

    Example:
        >>> MLP(hidden=8).build(4, 3)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    hidden: Annotated[int, Field(ge=1, le=65536), Choice((64, 128, 256, 512))] = 256
    dropout: Annotated[float, Field(ge=0, lt=1), Range(0.0, 0.5)] = 0.0

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.head_modules import MLPHead

        return MLPHead(num_features, num_classes, hidden=self.hidden, dropout=self.dropout)
