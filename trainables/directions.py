"""Vectors of length one: all that is left of a feature where only its direction counts."""

from __future__ import annotations

from torch import Tensor, nn

# Below this length a feature is scaled, not normalised: its gradient would exceed 1e6 times the
# gradient of its direction, and a feature that is all zero (dead units) has no direction.
SHORTEST = 1e-6


def directions(values: Tensor, *, dim: int = 1) -> Tensor:
    """Return values divided by their length along ``dim``; zero stays zero.

    Example:
        >>> import torch
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return nn.functional.normalize(values, dim=dim, eps=SHORTEST)
