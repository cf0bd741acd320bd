"""Similarities and positive pairs, shared by the contrastive losses."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import full_precision

EMPTY = -1  # label of an unfilled queue entry


def similarities(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return ``first @ second.T / temperature``, ``[M, N]``, in float32 or better.

    Example:
        >>> similarities(torch.eye(2)[:1], torch.eye(2), temperature=0.5)
        tensor([[2., 0.]])
    """
    # without autocast, which would compute the product in 16 bits: too few for exp(1 / temperature)
    with torch.autocast(first.device.type, enabled=False):
        return full_precision(first) @ full_precision(second).T / temperature


def positive_pairs(labels: torch.Tensor) -> torch.Tensor:
    """Return the mask of pairs of distinct samples with the same label, ``[N, N]`` bool.

    Example:
        >>> positive_pairs(torch.tensor([0, 1, 0])).int()
        tensor([[0, 0, 1],
                [0, 0, 0],
                [1, 0, 0]], dtype=torch.int32)
    """
    return (labels[:, None] == labels) & ~itself(len(labels), labels)


def itself(size: int, like: torch.Tensor) -> torch.Tensor:
    """Return the diagonal mask ``[N, N]`` as bool, on the device of ``like``."""
    return torch.eye(size, dtype=torch.bool, device=like.device)


def mean_over_positives(values: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Return the mean value of each anchor's positives ``[M]``, 0 for an anchor without positives.

    Args:
        values: ``[M, N]``; values of other pairs may be infinite.
        positive: ``[M, N]`` bool.

    Example:
        >>> mean_over_positives(torch.tensor([[2.0, 4.0]]), torch.tensor([[True, True]]))
        tensor([3.])
    """
    total = values.masked_fill(~positive, 0.0).sum(dim=1)
    return total / positive.sum(dim=1).clamp(min=1)
