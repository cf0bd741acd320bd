"""What contrastive losses share: similarities, and who is a positive of whom."""

from __future__ import annotations

import torch

from trainables.class_weights import full_precision

EMPTY = -1  # label of a place in the queue that holds nothing yet


def similarities(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return ``first @ second.T / temperature``, ``[M, N]``, in float32 or better.

    Example:
        >>> similarities(torch.eye(2)[:1], torch.eye(2), temperature=0.5)
        tensor([[2., 0.]])
    """
    # autocast would take the product back to 16 bits: exp(1 / temperature) needs more digits
    with torch.autocast(first.device.type, enabled=False):
        return full_precision(first) @ full_precision(second).T / temperature


def positive_pairs(labels: torch.Tensor) -> torch.Tensor:
    """Return which samples share a class with which others, ``[N, N]`` bool; none with itself.

    Example:
        >>> positive_pairs(torch.tensor([0, 1, 0])).int()
        tensor([[0, 0, 1],
                [0, 0, 0],
                [1, 0, 0]], dtype=torch.int32)
    """
    return (labels[:, None] == labels) & ~itself(len(labels), labels)


def itself(size: int, like: torch.Tensor) -> torch.Tensor:
    """Return the diagonal of an ``[N, N]`` table as bool, on the device of ``like``."""
    return torch.eye(size, dtype=torch.bool, device=like.device)


def mean_over_positives(values: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Return per anchor ``[M]`` the mean of its positives' values, 0 where it has none.

    Args:
        values: ``[M, N]``; what is not positive may be infinite.
        positive: ``[M, N]`` bool.

    Example:
        >>> mean_over_positives(torch.tensor([[2.0, 4.0]]), torch.tensor([[True, True]]))
        tensor([3.])
    """
    total = values.masked_fill(~positive, 0.0).sum(dim=1)
    return total / positive.sum(dim=1).clamp(min=1)
