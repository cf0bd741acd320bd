"""Independent reference implementation of distillation in Python floats, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def softened(row: Row, temperature: float) -> list[float]:
    top = max(row)
    parts = [math.exp((z - top) / temperature) for z in row]
    return [part / math.fsum(parts) for part in parts]


def cross_entropy(target: Row, row: Row) -> float:
    return -math.fsum(p * math.log(q) for p, q in zip(target, row, strict=True) if p > 0)


def divergence(target: Row, row: Row) -> float:
    # cross-entropy minus entropy, whereas the tested code sums p (log p - log q)
    return cross_entropy(target, row) - cross_entropy(target, target)


def kd(student: Row, teacher: Row, temperature: float) -> float:
    p = softened(teacher, temperature)
    q = softened(student[: len(teacher)], temperature)
    return temperature * temperature * divergence(p, q)


def lwf(student: Row, teacher: Row, temperature: float) -> float:
    return cross_entropy(
        softened(teacher, temperature), softened(student[: len(teacher)], temperature)
    )


def dkd(
    student: Row, teacher: Row, target: int, *, alpha: float, beta: float, temperature: float
) -> float:
    p = softened(teacher, temperature)
    q = softened(student[: len(teacher)], temperature)
    both = divergence([p[target], 1 - p[target]], [q[target], 1 - q[target]])
    # renormalized probabilities, whereas the tested code drops the logit
    rest = divergence(
        [v / (1 - p[target]) for c, v in enumerate(p) if c != target],
        [v / (1 - q[target]) for c, v in enumerate(q) if c != target],
    )
    return temperature * temperature * (alpha * both + beta * rest)


def dmc(student: Row, old: Row, new: Row, *, old_weight: float, new_weight: float) -> float:
    """Return a sample's mean squared error over all classes."""
    total = 0.0
    for block, weight, start in ((old, old_weight, 0), (new, new_weight, len(old))):
        mean = math.fsum(block) / len(block)
        for position, value in enumerate(block):
            total += weight * (student[start + position] - (value - mean)) ** 2
    return total / (len(old) + len(new))


def cosine_distance(first: Row, second: Row) -> float:
    product = math.fsum(a * b for a, b in zip(first, second, strict=True))
    return 1 - product / math.sqrt(
        math.fsum(a * a for a in first) * math.fsum(b * b for b in second)
    )
