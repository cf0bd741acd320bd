"""Independent reference implementation of clustering in Python floats, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

Row = Sequence[float]


def squared(a: Row, b: Row) -> float:
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def average(rows: Sequence[Row]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def plus_plus(rows: Sequence[Row], centers: list[list[float]], draws: Row) -> list[list[float]]:
    """Return the centers extended by one row per random number."""
    for draw in draws:
        weights = [min((squared(r, c) for c in centers), default=1.0) for r in rows]
        total, reached = math.fsum(weights), 0.0
        for row, weight in zip(rows, weights, strict=True):
            reached += weight / total
            if reached >= draw:
                centers = [*centers, list(row)]
                break
    return centers


def lloyd(
    rows: Sequence[Row], labels: Sequence[int], centers: list[list[float]], iterations: int
) -> tuple[list[int], float]:
    """Return assignments and inertia of the best iteration; labels (>= 0) are kept."""
    best: tuple[float, list[int]] = (math.inf, [])
    for _ in range(iterations):
        found = [
            label
            if label >= 0
            else min(range(len(centers)), key=lambda c: squared(row, centers[c]))
            for row, label in zip(rows, labels, strict=True)
        ]
        inertia = math.fsum(squared(r, centers[c]) for r, c in zip(rows, found, strict=True))
        best = min(best, (inertia, found), key=lambda pair: pair[0])
        centers = [
            average([r for r, f in zip(rows, found, strict=True) if f == c])
            for c in range(len(centers))
        ]
    return best[1], best[0]


def matched_accuracy(found: Sequence[int], labels: Sequence[int], num_clusters: int) -> float:
    """Return the best accuracy over all one-to-one matches of classes and clusters."""
    pairs = [(f, c) for f, c in zip(found, labels, strict=True) if c >= 0]
    classes = max(c for _, c in pairs) + 1
    pool = range(max(num_clusters, classes))
    best = max(sum(order[c] == f for f, c in pairs) for order in permutations(pool, classes))
    return best / len(pairs)


def silhouette(rows: Sequence[Row], found: Sequence[int], index: int) -> float:
    def mean_distance(cluster: int) -> float:
        others = [j for j, f in enumerate(found) if f == cluster and j != index]
        return math.fsum(math.dist(rows[index], rows[j]) for j in others) / len(others)

    if list(found).count(found[index]) == 1:
        return 0.0
    inside = mean_distance(found[index])
    outside = min(mean_distance(c) for c in set(found) if c != found[index])
    return (outside - inside) / max(inside, outside)


def agreement(
    rows: Sequence[Row], found: Sequence[int], num_neighbors: int, *, with_self: bool
) -> list[int]:
    """Return for each row the number of cosine neighbors in the same cluster."""

    def cosine(a: Row, b: Row) -> float:
        product = math.fsum(x * y for x, y in zip(a, b, strict=True))
        return product / math.hypot(*a) / math.hypot(*b)

    counts = []
    for i, row in enumerate(rows):
        near = sorted(
            (j for j in range(len(rows)) if with_self or j != i),
            key=lambda j: -cosine(row, rows[j]),
        )
        counts.append(sum(found[j] == found[i] for j in near[:num_neighbors]))
    return counts
