"""Mixing, one sample and one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def remix_share(own: int, other: int, share: float, *, kappa: float, tau: float) -> float:
    """Return the share of a sample's own label, from two class sizes."""
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
    """Mix each sample's own two losses by its own share, then average."""
    total = 0.0
    for row, label, other, share in zip(logits, labels, partner, shares, strict=True):
        own, theirs = cross_entropy(row, label), cross_entropy(row, labels[other])
        total += share * own + (1 - share) * theirs
    return total / len(labels)


def box_mask(
    share: float, height: int, width: int, row: int, column: int
) -> tuple[list[list[bool]], float]:
    """Say of every pixel whether the box covers it, and which share is left uncovered."""
    tall, wide = (int(length * math.sqrt(1 - share)) // 2 for length in (height, width))
    inside = [
        [row - tall <= y < row + tall and column - wide <= x < column + wide for x in range(width)]
        for y in range(height)
    ]
    return inside, 1 - sum(map(sum, inside)) / (height * width)
