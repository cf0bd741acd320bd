"""L2 normalization with an epsilon for short and zero vectors."""

from __future__ import annotations

from torch import Tensor, nn

# A shorter vector is divided by this constant instead of its norm: normalizing would multiply its
# gradient by more than 1e6, and a zero vector (dead units) has no direction.
SHORTEST = 1e-6


def l2_normalize(values: Tensor, *, dim: int = 1) -> Tensor:
    """Divide values by their L2 norm along ``dim``; a zero vector stays zero.

    Example:
        >>> import torch
        >>> l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return nn.functional.normalize(values, dim=dim, eps=SHORTEST)
