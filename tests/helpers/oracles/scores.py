"""Independent reference implementation of scores in Python floats, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Row = Sequence[float]


def softmax(logits: Row, temperature: float = 1.0) -> list[float]:
    powers = [math.exp((value - max(logits)) / temperature) for value in logits]
    return [power / math.fsum(powers) for power in powers]


def msp(logits: Row, temperature: float = 1.0) -> float:
    return max(softmax(logits, temperature))


def margin(logits: Row) -> float:
    ordered = sorted([*softmax(logits), 0.0] if len(logits) == 1 else softmax(logits))
    return ordered[-1] - ordered[-2]


def entropy(logits: Row) -> float:
    return math.fsum(p * math.log(p) for p in softmax(logits) if p > 0)


def energy(logits: Row, temperature: float = 1.0) -> float:
    highest = max(logits)
    rest = math.fsum(math.exp((value - highest) / temperature) for value in logits)
    return highest + temperature * math.log(rest)


def max_logit(logits: Row) -> float:
    return sorted(logits)[-1]


def gen(logits: Row, gamma: float = 0.1, top: int = 100) -> float:
    largest = sorted(softmax(logits), reverse=True)[:top]
    return -math.fsum(p**gamma * (1 - p) ** gamma for p in largest)


def unit(row: Row) -> list[float]:
    length = math.sqrt(math.fsum(value**2 for value in row))
    return [value / length for value in row]


def knn(row: Row, bank: Sequence[Row], k: int) -> float:
    me = unit(row)
    distances = sorted(math.dist(me, unit(other)) for other in bank)
    return -distances[min(k, len(bank)) - 1]


def covariance(
    rows: Sequence[Row], centers: Sequence[Row], ridge: float, variance: float | None = None
) -> np.ndarray:
    """Return the covariance with a fraction of a variance, by default its own, on the diagonal."""
    width = len(rows[0])
    total = np.zeros((width, width))
    for row, center in zip(rows, centers, strict=True):
        off = np.asarray(row) - np.asarray(center)
        total += np.outer(off, off)
    total /= len(rows)
    own = np.trace(total) / width if variance is None else variance
    return total + ridge * own * np.eye(width)


def mahalanobis(
    row: Row, rows: Sequence[Row], labels: Sequence[int], *, ridge: float, relative: bool = False
) -> float:
    """Return the negative Mahalanobis distance by an explicit inverse, without normalization."""
    means = {
        c: np.mean([r for r, label in zip(rows, labels, strict=True) if label == c], axis=0)
        for c in set(labels)
    }
    variance = float(np.var(rows, axis=0).mean()) if relative else None
    inverse = np.linalg.inv(covariance(rows, [means[label] for label in labels], ridge, variance))
    nearest = min(
        float((np.asarray(row) - mean) @ inverse @ (np.asarray(row) - mean))
        for mean in means.values()
    )
    if not relative:
        return -nearest
    mean = np.mean(rows, axis=0)
    whole = np.linalg.inv(covariance(rows, [mean] * len(rows), ridge))
    return float((np.asarray(row) - mean) @ whole @ (np.asarray(row) - mean)) - nearest
