"""Linear head."""

from __future__ import annotations

import math
from typing import Literal

import torch

from trainables.methods.heads import Head


class Linear(Head):
    """Linear classifier.

    ``logits = x W^T + b``, initialized as `torch.nn.Linear` from torch's global generator.

    Args:
        bias: Add ``b``.
        bias_start: Initial bias: ``default`` as `torch.nn.Linear`, ``sigmoid`` ``-log(C - 1)``, so
            that the initial probability of each class is 1/C under the sigmoid losses (focal,
            class-balanced).

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``.

    Source:
        `torch.nn.Linear`; ``sigmoid``: Cui et al. 2019, arXiv:1901.05555, section 4.4.

    Example:
        >>> Linear(bias_start="sigmoid").build(4, 3).bias.tolist()  # -log 2
        [-0.6931471824645996, -0.6931471824645996, -0.6931471824645996]
    """

    bias: bool = True
    bias_start: Literal["default", "sigmoid"] = "default"

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.head_modules import LinearHead

        start = -math.log(max(num_classes - 1, 1)) if self.bias_start == "sigmoid" else None
        return LinearHead(num_features, num_classes, bias=self.bias, start=start)
