"""Intervals of figures by class: inside [0, 1], with groups of images as units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.records import Interval

DRAWS = 20_000
PRIOR = 0.5  # Jeffreys' prior of a rate


class ClassRate(NamedTuple):
    """A class's share of images of which something holds: among ``images`` in ``groups``."""

    name: str
    rate: float
    images: int
    groups: int


def mean_of_rates(
    rates: Sequence[ClassRate], shares: Sequence[float] | None = None, *, seed: int = 0
) -> Interval:
    """Return the weighted mean over classes of a rate, with its 95 % interval.

    The rate of a class with k of n groups is drawn from ``Beta(k + 1/2, n - k + 1/2)`` (Jeffreys),
    with ``k = n rate``: groups are the units, as images of one group are as good as one. So classes
    at 0 and 1 count as uncertain too, and the interval stays in [0, 1].

    Args:
        rates: One entry per class.
        shares: Weight of each class; by default all alike.
        seed: Seed of the draws.

    Raises:
        ValueError: There is no class, or all weights are 0.

    Example:
        >>> found = mean_of_rates([ClassRate("cat", 1.0, 30, 30), ClassRate("dog", 0.5, 30, 30)])
        >>> found.mean, round(found.low, 2), round(found.high, 2)
        (0.75, 0.65, 0.83)
    """
    weights = np.ones(len(rates)) if shares is None else np.array(shares, dtype=np.float64)
    if not len(rates) or weights.sum() <= 0:
        raise ValueError("a mean over classes needs at least one class; received none")
    weights = weights / weights.sum()
    drawn = _draw(rates, weights, np.random.default_rng(seed))
    mean = float(sum(w * rate.rate for w, rate in zip(weights, rates, strict=True)))
    return _around(min(max(mean, 0.0), 1.0), drawn)


def difference_of_means(
    rates: Mapping[str, ClassRate], others: Mapping[str, ClassRate], *, seed: int = 0
) -> Interval | None:
    """Return the mean rate less that of other images, over the classes that both have.

    Args:
        rates: Rate of each class.
        others: Rate of each class among other images, independent of the first.
        seed: Seed of the draws, see `mean_of_rates`.

    Returns:
        The difference with its 95 % interval; ``None`` if no class is in both.

    Example:
        >>> here = {"cat": ClassRate("cat", 0.9, 400, 400), "dog": ClassRate("dog", 1.0, 9, 9)}
        >>> found = difference_of_means(here, {"cat": ClassRate("cat", 0.5, 400, 400)})
        >>> round(found.mean, 2), round(found.low, 2), round(found.high, 2)
        (0.4, 0.34, 0.46)
    """
    names = [name for name in rates if name in others]
    if not names:
        return None
    rng, alike = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    mine, theirs = [rates[name] for name in names], [others[name] for name in names]
    drawn = _draw(mine, alike, rng) - _draw(theirs, alike, rng)
    mean = sum(rate.rate for rate in mine) - sum(rate.rate for rate in theirs)
    return _around(mean / len(names), drawn)


def _draw(
    rates: Sequence[ClassRate], weights: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return draws of a weighted mean of rates."""
    drawn = np.zeros(DRAWS)
    for rate, weight in zip(rates, weights, strict=True):
        right = rate.groups * rate.rate
        drawn += weight * rng.beta(right + PRIOR, rate.groups - right + PRIOR, DRAWS)
    return drawn


def _around(mean: float, drawn: NDArray[np.float64]) -> Interval:
    """Return a value with the interval that draws span around it."""
    low, high = (float(end) for end in np.quantile(drawn, (0.025, 0.975)))
    return Interval(mean=mean, low=min(low, mean), high=max(high, mean), values=[mean])


def rates_by_class(
    holds: NDArray[np.bool_],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    names: Sequence[str],
) -> dict[str, ClassRate]:
    """Return the rate of each class that has images.

    Args:
        holds: Of which images it holds ``[N]``.
        labels: Their classes ``[N]``.
        groups: Their groups ``[N]``.
        names: Name of each class.

    Example:
        >>> rates_by_class(
        ...     np.array([True, False, True]), np.array([0, 0, 2]), np.array([5, 5, 6]), "abc"
        ... )["a"]
        ClassRate(name='a', rate=0.5, images=2, groups=1)
    """
    found = {}
    for label, name in enumerate(names):
        inside = labels == label
        if inside.any():
            found[name] = ClassRate(
                name,
                float(holds[inside].mean()),
                int(inside.sum()),
                len(np.unique(groups[inside])),
            )
    return found


def ratio(value: float) -> str:
    """Return a ratio as people read it.

    Example:
        >>> ratio(0.8524), ratio(1.0), ratio(0.9999), ratio(0.0)
        ('.852', '1.000', '1.000', '.000')
    """
    text = f"{value:.3f}"
    return text.removeprefix("0") if not math.isnan(value) else "-"


def bracket(found: Interval) -> str:
    """Return a ratio with its interval.

    Example:
        >>> bracket(Interval(mean=0.852, low=0.823, high=0.878, values=[0.852]))
        '.852 [.823, .878]'
    """
    return f"{ratio(found.mean)} [{ratio(found.low)}, {ratio(found.high)}]"


def signed(found: Interval) -> str:
    """Return a difference with its interval, each with its sign.

    Example:
        >>> signed(Interval(mean=0.069, low=-0.0412, high=0.097, values=[0.069]))
        '+.069 [-.041, +.097]'
        >>> signed(Interval(mean=-1e-17, low=-0.2, high=0.1, values=[0.0]))
        '+.000 [-.200, +.100]'
    """
    mean, low, high = (
        f"{value:+z.3f}".replace("0.", ".", 1) for value in (found.mean, found.low, found.high)
    )
    return f"{mean} [{low}, {high}]"
