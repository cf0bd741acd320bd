"""Independent reference implementation of losses in Python floats, sample by sample.

Every function takes the logits of one sample and returns the sample's loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def probabilities(row: Row) -> list[float]:
    top = max(row)
    parts = [math.exp(z - top) for z in row]
    return [part / math.fsum(parts) for part in parts]


def cross_entropy(row: Row, label: int) -> float:
    return -math.log(probabilities(row)[label])


def effective_weights(counts: Sequence[int], beta: float) -> list[float]:
    # the geometric series itself, whereas the tested code uses its closed form
    numbers = [math.fsum(beta**k for k in range(n)) for n in counts]
    total = math.fsum(1 / number for number in numbers)
    return [len(counts) / number / total for number in numbers]


def inverse_weights(counts: Sequence[int], power: float) -> list[float]:
    return [(min(counts) / n) ** power for n in counts]


def binary_sum(row: Row, label: int, gamma: float) -> float:
    total = 0.0
    for k, z in enumerate(row):
        probability = 1 / (1 + math.exp(-z))
        correct = probability if k == label else 1 - probability
        total -= (1 - correct) ** gamma * math.log(correct)
    return total


def focal(row: Row, label: int, gamma: float) -> float:
    own = probabilities(row)[label]
    return (1 - own) ** gamma * -math.log(own)


def ldam(row: Row, label: int, counts: Sequence[int], margin: float, scale: float) -> float:
    margins = [n**-0.25 for n in counts]
    shifted = list(row)
    shifted[label] -= scale * margin * margins[label] / max(margins)
    return cross_entropy(shifted, label)


def cosface(row: Row, label: int, margin: float, scale: float) -> float:
    shifted = list(row)
    shifted[label] = scale * (row[label] / scale - margin)
    return cross_entropy(shifted, label)


def arcface(row: Row, label: int, margin: float, scale: float) -> float:
    angle, shifted = math.acos(row[label] / scale), list(row)
    if angle + margin < math.pi:
        shifted[label] = scale * math.cos(angle + margin)
    else:
        shifted[label] = scale * (math.cos(angle) - margin * math.sin(math.pi - margin))
    return cross_entropy(shifted, label)


def logit_adjustment(row: Row, label: int, counts: Sequence[int], tau: float) -> float:
    total = sum(counts)
    shift = [math.log((n / total) ** tau + 1e-12) for n in counts]
    return cross_entropy([z + s for z, s in zip(row, shift, strict=True)], label)


def balanced_softmax(row: Row, label: int, counts: Sequence[int]) -> float:
    parts = [n * math.exp(z) for n, z in zip(counts, row, strict=True)]
    return -math.log(parts[label] / math.fsum(parts))


def smoothed(row: Row, label: int, epsilon: float, *, others: bool) -> float:
    classes = len(row)
    target = [epsilon / (classes - 1) if others else epsilon / classes] * classes
    target[label] = 1 - epsilon if others else 1 - epsilon + epsilon / classes
    return -math.fsum(t * math.log(p) for t, p in zip(target, probabilities(row), strict=True))


def label_aware(counts: Sequence[int], head: float, tail: float, shape: str) -> list[float]:
    smooth = []
    for n in counts:
        u = (n - min(counts)) / (max(counts) - min(counts))
        angle = math.radians(90 * u)
        smooth.append(
            {
                "concave": tail + (head - tail) * math.sin(angle),
                "linear": tail * (1 - u) + head * u,
                "convex": head - (head - tail) * math.cos(angle),
                "exponential": tail + (head - tail) * u * u,
            }[shape]
        )
    return smooth


def cdt(row: Row, label: int, counts: Sequence[int], gamma: float) -> float:
    scaled = [z * (n / max(counts)) ** gamma for z, n in zip(row, counts, strict=True)]
    return cross_entropy(scaled, label)


def influence_balanced(
    row: Row, feature: Row, label: int, counts: Sequence[int], alpha: float
) -> float:
    found = probabilities(row)
    distance = math.fsum(abs(p - (k == label)) for k, p in enumerate(found))
    weight = len(counts) / counts[label] / math.fsum(1 / n for n in counts)
    size = math.fsum(abs(h) for h in feature)
    return weight * -math.log(found[label]) * alpha / (distance * size + 1e-3)


def seesaw(row: Row, label: int, counts: Sequence[int], p: float, q: float, eps: float) -> float:
    found = probabilities(row)
    below = math.exp(row[label])
    for j, z in enumerate(row):
        if j == label:
            continue
        ratio = counts[j] / counts[label]
        mitigation = ratio**p if ratio < 1 else 1.0
        rivalry = found[j] / max(found[label], eps)
        below += mitigation * (rivalry**q if rivalry > 1 else 1.0) * math.exp(z)
    return -math.log(math.exp(row[label]) / below)


def weighted(losses: Sequence[float], labels: Sequence[int], weights: Sequence[float]) -> float:
    chosen = [weights[label] for label in labels]
    products = [w * loss for w, loss in zip(chosen, losses, strict=True)]
    return math.fsum(products) / math.fsum(chosen)
