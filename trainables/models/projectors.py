"""Projection head of the contrastive pretrainers and losses."""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """MLP from features to projections: linear, ReLU, linear, optionally with BatchNorm.

    Args:
        num_features: Width of the trunk's features.
        hidden_dimension: Width of the hidden layer.
        output_dimension: Width of the projections.
        batch_norm: Put a BatchNorm after each linear layer, which then has no bias; the last
            BatchNorm has a scale but no shift.

    Shapes:
        features ``[B, num_features]`` -> projections ``[B, output_dimension]``, not unit norm.

    Example:
        >>> import torch
        >>> projector = Projector(4, hidden_dimension=8, output_dimension=2, batch_norm=False)
        >>> projector(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, num_features: int, *, hidden_dimension: int, output_dimension: int, batch_norm: bool
    ) -> None:
        first = nn.Linear(num_features, hidden_dimension, bias=not batch_norm)
        second = nn.Linear(hidden_dimension, output_dimension, bias=not batch_norm)
        if not batch_norm:
            super().__init__(first, nn.ReLU(), second)
            return
        last = nn.BatchNorm1d(output_dimension)
        last.bias.requires_grad_(False)  # stays at its initial value, zero
        super().__init__(first, nn.BatchNorm1d(hidden_dimension), nn.ReLU(), second, last)
