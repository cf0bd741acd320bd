"""Class probabilities of samplers, as exact fractions if the exponent allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction


def sample_probabilities(
    labels: Sequence[int], share: Callable[[int, int, int], float | Fraction]
) -> list[float]:
    """Return sample probabilities, from ``share(n_c, N, K)`` divided among the class's samples."""
    sizes = Counter(labels)
    shares = {c: share(n, len(labels), len(sizes)) for c, n in sizes.items()}
    total = sum(shares.values())
    return [float(shares[label] / total / sizes[label]) for label in labels]


def effective_share(n: int, beta: Fraction) -> Fraction:
    return n / sum((beta**k for k in range(n)), Fraction(0))
