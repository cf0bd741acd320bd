"""Append classes to a head: new weight rows, unchanged rows of the old classes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class GrowingHead(Protocol):
    """A head module to which classes can be appended in place; see `grow_head`."""

    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append ``num_new`` classes."""


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
    """Return a weight ``[C + num_new, D]`` whose first C rows equal the old rows bit for bit.

    Args:
        weight: Old rows ``[C, D]``.
        num_new: Number of rows to append, >= 0.
        prototypes: Directions of the new rows ``[num_new, D]``; ``None`` draws them from torch's
            global generator.
        rescale: Rescale the new rows to the mean norm of the old rows, so that old and new logits
            start on one scale; otherwise prototypes are copied unchanged.

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


def grow_head(
    module: nn.Module,
    num_new: int,
    prototypes: Tensor | None = None,
    *,
    rescale: bool = True,
    new_bias: float | None = None,
) -> nn.Module:
    """Append ``num_new`` classes to a head, in place, and return it.

    Growing replaces the parameter objects, so build the optimizer afterwards.

    Args:
        module: A module that a `Head` built.
        num_new: Number of classes to append.
        prototypes: Directions of the new rows ``[num_new, D]``, e.g. cluster means of features.
        rescale: See `grow_rows`.
        new_bias: Bias of the new classes, for heads with a bias; ``None`` takes the mean of the old
            biases. AutoNovel takes one less than the smallest old bias, so that new classes rarely
            win at first.

    Raises:
        TypeError: The module has no method ``grow``.
        ValueError: A shape does not fit; see `grow_rows`.

    Example:
        >>> from trainables.models.head_modules import LinearHead
        >>> grown = grow_head(LinearHead(2, 3), 1, torch.ones(1, 2))
        >>> grown(torch.ones(5, 2)).shape
        torch.Size([5, 4])
    """
    if not isinstance(module, GrowingHead):
        raise TypeError(f"{type(module).__name__} is not a GrowingHead: it has no method grow()")
    module.grow(num_new, prototypes, rescale=rescale, new_bias=new_bias)
    return module
