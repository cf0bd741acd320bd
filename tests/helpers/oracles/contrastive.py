"""Independent reference implementation of contrastive losses in Python floats, anchor by anchor.

Every function takes all rows and returns the mean over the anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def dot(first: Row, second: Row) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


def supcon(rows: Sequence[Row], labels: Sequence[int], t: float) -> float:
    losses = []
    for i, anchor in enumerate(rows):
        below = math.fsum(math.exp(dot(anchor, z) / t) for a, z in enumerate(rows) if a != i)
        own = [
            -math.log(math.exp(dot(anchor, z) / t) / below)
            for p, z in enumerate(rows)
            if p != i and labels[p] == labels[i]
        ]
        losses.append(math.fsum(own) / len(own) if own else 0.0)
    return math.fsum(losses) / len(rows)


def psc(
    rows: Sequence[Row], prototypes: Sequence[Row], labels: Sequence[int], t: float, *, others: bool
) -> float:
    losses = []
    for anchor, label in zip(rows, labels, strict=True):
        parts = [math.exp(dot(anchor, c) / t) for c in prototypes]
        below = math.fsum(part for j, part in enumerate(parts) if not others or j != label)
        losses.append(-math.log(parts[label] / below))
    return math.fsum(losses) / len(rows)


def bcl(rows: Sequence[Row], prototypes: Sequence[Row], labels: Sequence[int], t: float) -> float:
    members = {c: [z] for c, z in enumerate(prototypes)}
    for z, label in zip(rows, labels, strict=True):
        members[label].append(z)
    losses = []
    for anchor, label in zip(rows, labels, strict=True):
        below = 0.0
        for found in members.values():
            similar = [math.exp(dot(anchor, z) / t) for z in found if z is not anchor]
            below += math.fsum(similar) / len(similar)
        own = [
            -math.log(math.exp(dot(anchor, z) / t) / below)
            for z in members[label]
            if z is not anchor
        ]
        losses.append(math.fsum(own) / len(own))
    return math.fsum(losses) / len(rows)


def paco(
    logits: Sequence[Row],
    rows: Sequence[Row],
    labels: Sequence[int],
    counts: Sequence[int],
    queue: Sequence[tuple[Row, int]],
    alpha: float,
    t: float,
) -> float:
    total, losses = sum(counts), []
    for i, row in enumerate(logits):
        classes = [
            math.exp(z + math.log(n / total + 1e-9)) for z, n in zip(row, counts, strict=True)
        ]
        others = [(z, y) for a, (z, y) in enumerate(zip(rows, labels, strict=True)) if a != i]
        samples = [(math.exp(dot(rows[i], z) / t), y) for z, y in [*others, *queue] if y >= 0]
        below = math.fsum(classes) + math.fsum(part for part, _ in samples)
        value, weight = math.log(classes[labels[i]] / below), 1.0
        for part, label in samples:
            if label == labels[i]:
                value += alpha * math.log(part / below)
                weight += alpha
        losses.append(-value / weight)
    return math.fsum(losses) / len(logits)


def log_bessel(order: float, x: float) -> float:
    """Return ``log(I_order(x) / x^order)`` by the power series, whose terms are all positive."""
    terms, k = [], 0
    while not terms or terms[-1] > max(terms) - 60:
        power = 2 * k * math.log(x / 2) if k else 0.0
        terms.append(power - math.lgamma(k + 1) - math.lgamma(order + k + 1))
        k += 1
    largest = max(terms)
    total = math.fsum(math.exp(term - largest) for term in terms)
    return largest + math.log(total) - order * math.log(2)


def proco(
    rows: Sequence[Row],
    means: Sequence[Row],
    labels: Sequence[int],
    counts: Sequence[int],
    t: float,
) -> float:
    width = len(means[0])
    order, total, losses = width / 2 - 1, sum(counts), []
    for z, label in zip(rows, labels, strict=True):
        parts = []
        for mean, n in zip(means, counts, strict=True):
            length = math.sqrt(dot(mean, mean))
            kappa = width * length / (1 - length**2)
            moved = [kappa * m / length + part / t for m, part in zip(mean, z, strict=True)]
            ratio = log_bessel(order, math.sqrt(dot(moved, moved))) - log_bessel(order, kappa)
            parts.append(n / total * math.exp(ratio))
        losses.append(-math.log(parts[label] / math.fsum(parts)))
    return math.fsum(losses) / len(rows)
