"""New rows for the weight of a classifier that learns more classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_prototypes(prototypes: Tensor, num_new: int, width: int) -> None:
    """Refuse prototypes of another shape than ``[num_new, width]``.

    Raises:
        ValueError: The shape differs.
    """
    if tuple(prototypes.shape) != (num_new, width):
        raise ValueError(
            f"grow: prototypes must be [{num_new}, {width}]; received {list(prototypes.shape)}"
        )


def grow_rows(
    weight: Tensor, num_new: int, prototypes: Tensor | None, *, rescale: bool = True
) -> nn.Parameter:
    """Return a weight ``[C + num_new, D]`` whose first C rows are the old ones, bit-exact.

    Args:
        weight: Old rows ``[C, D]``.
        num_new: How many rows to append, >= 0.
        prototypes: Directions of the new rows ``[num_new, D]``; ``None`` draws them from the
            ambient generator.
        rescale: Give the new rows the mean length of the old ones, so that old and new logits
            start on one scale; otherwise prototypes are copied as they are.

    Raises:
        ValueError: ``num_new`` is negative, or the prototypes are not ``[num_new, D]``.
    """
    old, width = weight.detach(), weight.shape[1]
    if num_new < 0:
        raise ValueError(f"grow: num_new must be >= 0; received {num_new}")
    drawn = prototypes is None
    new = torch.randn(num_new, width) if prototypes is None else prototypes.detach()
    check_prototypes(new, num_new, width)
    new = new.to(old)
    if rescale or drawn:
        length = old.norm(dim=1).mean() if len(old) else old.new_ones(())
        new = nn.functional.normalize(new, dim=1) * length
    return nn.Parameter(torch.cat([old, new]), requires_grad=weight.requires_grad)
