"""Independent reference implementation of mixing in Python floats, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence


def remix_share(own: int, other: int, share: float, *, kappa: float, tau: float) -> float:
    """Return the weight of a sample's own label, from the sizes of both classes."""
    if own >= kappa * other and share < tau:
        return 0.0
    if kappa * own <= other and 1 - share < tau:
        return 1.0
    return share


def cross_entropy(logits: Sequence[float], label: int) -> float:
    peak = max(logits)
    return peak + math.log(sum(math.exp(z - peak) for z in logits)) - logits[label]


def paired_mean(
    logits: Sequence[Sequence[float]],
    labels: Sequence[int],
    partner: Sequence[int],
    shares: Sequence[float],
) -> float:
    """Return the mean of the samples' losses, each mixed of two labels by the sample's weight."""
    total = 0.0
    for row, label, other, share in zip(logits, labels, partner, shares, strict=True):
        own, theirs = cross_entropy(row, label), cross_entropy(row, labels[other])
        total += share * own + (1 - share) * theirs
    return total / len(labels)


def box_mask(
    share: float, height: int, width: int, row: int, column: int
) -> tuple[list[list[bool]], float]:
    """Return the mask of a box, and the fraction of pixels outside the box."""
    tall, wide = (int(length * math.sqrt(1 - share)) // 2 for length in (height, width))
    inside = [
        [row - tall <= y < row + tall and column - wide <= x < column + wide for x in range(width)]
        for y in range(height)
    ]
    return inside, 1 - sum(map(sum, inside)) / (height * width)
