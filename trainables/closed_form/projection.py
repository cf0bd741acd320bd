"""Random features: a fixed random matrix and a ReLU, and the head that classifies them linearly."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from trainables.models.growth import check_prototypes
from trainables.models.head_modules import LinearHead


@lru_cache(maxsize=4)  # a head is built anew for each prediction
def draw_projection(num_features: int, width: int, *, seed: int) -> Tensor:
    """Return a matrix ``[num_features, width]`` of normal numbers of variance 2 / width, float32.

    With this variance, random features are as long as the features: a rate, a penalty or a distance
    suits both. The numbers are drawn by numpy's `RandomState`, whose numbers are the same in all
    versions, so that a stored model needs the seed alone.

    Example:
        >>> draw_projection(1, 2, seed=0)
        tensor([[1.7641, 0.4002]])
    """
    drawn = np.random.RandomState(seed).standard_normal((num_features, width))
    return torch.from_numpy((drawn * (2 / width) ** 0.5).astype(np.float32))


def project(features: Tensor, projection: Tensor | None) -> Tensor:
    """Return ``relu(features P)`` ``[N, M]`` in the type of the features; without P the features.

    Example:
        >>> project(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -1.0], [1.0, 0.0]]))
        tensor([[3., 0.]])
    """
    if projection is None:
        return features
    return torch.relu(features @ projection.to(features))


class RandomFeaturesHead(nn.Module):
    """Linear classifier on ``relu(x P)``; the matrix P is drawn from a seed and never stored.

    Args:
        num_features: D.
        num_classes: C.
        width: Number of random features M.
        seed: Seed of P.
    """

    projection: Tensor

    def __init__(self, num_features: int, num_classes: int, *, width: int, seed: int) -> None:
        super().__init__()
        self.linear = LinearHead(width, num_classes)
        drawn = draw_projection(num_features, width, seed=seed)
        self.register_buffer("projection", drawn, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``."""
        logits: Tensor = self.linear(project(features, self.projection))
        return logits

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. Prototypes are features, as with other heads."""
        if prototypes is not None:
            check_prototypes(prototypes, num_new, len(self.projection))
            prototypes = project(prototypes.to(self.projection), self.projection)
        self.linear.grow(num_new, prototypes, rescale=rescale, new_bias=new_bias)
