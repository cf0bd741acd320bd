"""Independent reference implementation of rebalancers in Python floats, class by class."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def logits(row: Row, weight: Sequence[Row], bias: Row) -> list[float]:
    return [
        math.fsum(w * x for w, x in zip(vector, row, strict=True)) + b
        for vector, b in zip(weight, bias, strict=True)
    ]


def prior_offset(counts: Sequence[int], tau: float) -> list[float]:
    rarest = min(n for n in counts if n > 0)
    filled = [n if n > 0 else rarest for n in counts]
    return [-math.log((n / sum(filled)) ** tau + 1e-12) for n in filled]


def tau_normalized(weight: Sequence[Row], tau: float) -> list[list[float]]:
    result = []
    for vector in weight:
        length = math.sqrt(math.fsum(w * w for w in vector))
        result.append([w / length**tau if length else 0.0 for w in vector])
    return result


def nearest_mean(
    row: Row, rows: Sequence[Row], labels: Sequence[int], features: str, distance: str
) -> list[float]:
    """Return the logits of nearest class means, with the names of the reference code.

    ``features`` is ``un`` (unchanged), ``l2n`` (L2-normalized) or ``cl2n`` (centered at the mean of
    all rows, then L2-normalized). ``distance`` is ``l2`` (negative squared distance) or ``cos``
    (dot product divided by D).
    """
    middle = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]

    def seen(vector: Row) -> list[float]:
        moved = [v - m * (features == "cl2n") for v, m in zip(vector, middle, strict=True)]
        length = 1.0 if features == "un" else math.hypot(*moved)
        return [v / length for v in moved]

    found, point = [], seen(row)
    for c in sorted(set(labels)):
        own = [seen(r) for r, label in zip(rows, labels, strict=True) if label == c]
        mean = [math.fsum(column) / len(own) for column in zip(*own, strict=True)]
        if distance == "l2":
            found.append(-(math.dist(point, mean) ** 2))
        else:
            products = (p * m for p, m in zip(point, mean, strict=True))
            found.append(math.fsum(products) / len(row))
    return found


def sgd_softmax(
    weight: list[list[float]],
    bias: list[float],
    batches: Sequence[Sequence[tuple[Row, int]]],
    *,
    lr: float,
    weight_decay: float,
) -> tuple[list[list[float]], list[float]]:
    """Train a linear head by SGD with momentum 0.9 and a half-cosine learning rate."""
    classes, width = range(len(weight)), range(len(weight[0]))
    momentum_w = [[0.0 for _ in width] for _ in classes]
    momentum_b = [0.0 for _ in classes]
    for step, batch in enumerate(batches):
        rate = lr * (1 + math.cos(math.pi * step / len(batches))) / 2
        grad_w = [[weight_decay * weight[c][d] for d in width] for c in classes]
        grad_b = [weight_decay * bias[c] for c in classes]
        for row, label in batch:
            scores = logits(row, weight, bias)
            powers = [math.exp(score - max(scores)) for score in scores]
            for c in classes:
                error = (powers[c] / math.fsum(powers) - (c == label)) / len(batch)
                grad_b[c] += error
                for d in width:
                    grad_w[c][d] += error * row[d]
        for c in classes:
            momentum_b[c] = 0.9 * momentum_b[c] + grad_b[c]
            bias[c] -= rate * momentum_b[c]
            for d in width:
                momentum_w[c][d] = 0.9 * momentum_w[c][d] + grad_w[c][d]
                weight[c][d] -= rate * momentum_w[c][d]
    return weight, bias


def aligned(
    z: Row, row: Row, scale: Row, shift: Row, vector: Row, start: float, *, official: bool
) -> list[float]:
    """Return one sample's logits after distribution alignment."""
    asked = start + math.fsum(v * x for v, x in zip(vector, row, strict=True))
    sigma = 1 / (1 + math.exp(-asked))
    if official:
        return [(1 + sigma * a) * v + sigma * b for v, a, b in zip(z, scale, shift, strict=True)]
    return [sigma * (a * v + b) + (1 - sigma) * v for v, a, b in zip(z, scale, shift, strict=True)]


def reweighted_loss(
    rows: Sequence[Row], labels: Sequence[int], counts: Sequence[int], rho: float
) -> float:
    """Return the cross-entropy with class weights, the inverse class counts to the power rho."""
    total, weights = 0.0, 0.0
    for row, label in zip(rows, labels, strict=True):
        weight = (sum(counts) / counts[label]) ** rho
        total += weight * (math.log(math.fsum(math.exp(z) for z in row)) - row[label])
        weights += weight
    return total / weights


def group_loss(
    classes: Sequence[Row],
    others: Sequence[Row],
    group: Sequence[int],
    labels: Sequence[int],
    kept: Sequence[Sequence[bool]],
) -> float:
    """Return the balanced group softmax loss, group by group and sample by sample."""
    total = 0.0
    for g in range(len(others[0])):
        members = [c for c, own in enumerate(group) if own == g]
        losses = []
        for i, label in enumerate(labels):
            if not kept[i][g]:
                continue
            powers = [math.exp(others[i][g]), *(math.exp(classes[i][c]) for c in members)]
            right = classes[i][label] if label in members else others[i][g]
            losses.append(math.log(math.fsum(powers)) - right)
        total += math.fsum(losses) / len(losses) if losses else 0.0
    return total
