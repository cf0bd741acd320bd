"""Contrastive losses of one anchor after the other in plain Python floats, written independently.

Every function gets all rows and gives the mean over the anchors.
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
