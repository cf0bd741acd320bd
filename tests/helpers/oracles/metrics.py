"""Metrics by their definitions, over all pairs, thresholds and matchings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

Row = Sequence[float]


def auroc(known: Row, unknown: Row) -> float:
    wins = math.fsum((k > u) + 0.5 * (k == u) for k in known for u in unknown)
    return wins / (len(known) * len(unknown))


def average_precision(positive: Row, negative: Row) -> float:
    """Return the sum of precision times gain in recall over decreasing thresholds."""
    area, before = 0.0, 0.0
    for level in sorted({*positive, *negative}, reverse=True):
        hits = sum(p >= level for p in positive)
        calls = hits + sum(n >= level for n in negative)
        area += hits / calls * (hits / len(positive) - before)
        before = hits / len(positive)
    return area


def false_positive_rate(positive: Row, negative: Row, recall: float = 0.95) -> float:
    """Return the smallest false positive rate at a true positive rate of ``recall`` or more."""
    rates = [
        sum(n >= level for n in negative) / len(negative)
        for level in sorted({*positive, *negative})
        if sum(p >= level for p in positive) >= recall * len(positive) - 1e-9
    ]
    return min(rates)


def oscr(known: Row, right: Sequence[bool], unknown: Row) -> float:
    """Return the fraction of pairs in which a correct known sample exceeds an unknown sample."""
    wins = math.fsum(
        ok * ((k > u) + 0.5 * (k == u)) for k, ok in zip(known, right, strict=True) for u in unknown
    )
    return wins / (len(known) * len(unknown))


def gaps(probability: Row, happened: Row, bins: int) -> list[tuple[float, float]]:
    """Return the fraction of samples and the gap of each bin ``(b / bins, (b + 1) / bins]``."""
    result = []
    for b in range(bins):
        inside = [
            (p, h)
            for p, h in zip(probability, happened, strict=True)
            if min(max(math.ceil(p * bins) - 1, 0), bins - 1) == b
        ]
        if inside:
            off = math.fsum(h - p for p, h in inside) / len(inside)
            result.append((len(inside) / len(probability), abs(off)))
    return result


def ece(probability: Row, happened: Row, bins: int) -> float:
    return math.fsum(share * gap for share, gap in gaps(probability, happened, bins))


def cluster_accuracy(given: Sequence[int], true: Sequence[int]) -> float:
    """Return the best accuracy over all ways to assign each cluster a distinct class or none."""
    clusters, classes = sorted(set(given)), sorted(set(true))
    names = [*classes, *[-1] * len(clusters)]
    best = 0
    for chosen in set(permutations(names, len(clusters))):
        name = dict(zip(clusters, chosen, strict=True))
        best = max(best, sum(name[g] == t for g, t in zip(given, true, strict=True)))
    return best / len(true)


def silhouette(rows: Sequence[Row], labels: Sequence[int]) -> float:
    total = 0.0
    for i, row in enumerate(rows):
        mean = {}
        for c in set(labels):
            others = [math.dist(row, r) for j, r in enumerate(rows) if labels[j] == c and j != i]
            if others:
                mean[c] = math.fsum(others) / len(others)
        if labels[i] in mean:
            a = mean.pop(labels[i])
            b = min(mean.values())
            total += (b - a) / max(a, b)
    return total / len(rows)


def neighbor_accuracy(rows: Sequence[Row], labels: Sequence[int], k: int) -> float:
    hits = 0
    for i, row in enumerate(rows):
        order = sorted((math.dist(row, r), j) for j, r in enumerate(rows) if j != i)[:k]
        votes = [labels[j] for _, j in order]
        hits += min(set(votes), key=lambda c: (-votes.count(c), c)) == labels[i]
    return hits / len(rows)


def uniformity(rows: Sequence[Row]) -> float:
    terms = [
        math.exp(-2 * math.dist(rows[i], rows[j]) ** 2) for i in range(len(rows)) for j in range(i)
    ]
    return math.log(math.fsum(terms) / len(terms))


def alignment(rows: Sequence[Row], labels: Sequence[int]) -> float:
    terms = [
        math.dist(rows[i], rows[j]) ** 2
        for i in range(len(rows))
        for j in range(i)
        if labels[i] == labels[j]
    ]
    return math.fsum(terms) / len(terms)
