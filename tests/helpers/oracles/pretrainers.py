"""Independent reference implementation of NT-Xent and InfoNCE in Python floats."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def cosine(a: Row, b: Row) -> float:
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return product / math.hypot(*a) / math.hypot(*b)


def nt_xent(first: Sequence[Row], second: Sequence[Row], temperature: float) -> float:
    total = 0.0
    for views, others in ((first, second), (second, first)):
        for i, anchor in enumerate(views):
            positive = math.exp(cosine(anchor, others[i]) / temperature)
            negatives = [
                math.exp(cosine(anchor, row) / temperature)
                for group in (views, others)
                for j, row in enumerate(group)
                if j != i
            ]
            total -= math.log(positive / (positive + math.fsum(negatives)))
    return total / (2 * len(first))


def info_nce(
    queries: Sequence[Row], keys: Sequence[Row], queue: Sequence[Row], temperature: float
) -> float:
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        positive = math.exp(cosine(query, key) / temperature)
        negatives = [math.exp(cosine(query, row) / temperature) for row in queue]
        total -= math.log(positive / (positive + math.fsum(negatives)))
    return total / len(queries)
