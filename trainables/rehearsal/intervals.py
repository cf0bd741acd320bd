"""Intervals over classes: of their mean, of the next class, of a share, and what alarms mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from statistics import variance as variance_of
from typing import NamedTuple

COVERAGE = 0.95


class Figure(NamedTuple):
    """A rate over classes, each of which counts alike.

    Attributes:
        mean: Of the classes' rates; NaN without classes.
        low, high: Interval of the mean over all classes that might have been rehearsed.
        next_low, next_high: Interval of the rate of the next class.
        classes: Number of classes.
    """

    mean: float
    low: float
    high: float
    next_low: float
    next_high: float
    classes: int


class Share(NamedTuple):
    """``hits`` of ``tried``, with its Clopper-Pearson interval."""

    hits: int
    tried: int
    low: float
    high: float


def over_classes(
    rates: Sequence[float], images: Sequence[int], *, coverage: float = COVERAGE
) -> Figure:
    """Return the mean of rates with its interval and the prediction interval of the next class.

    Both are t-intervals on the scale of the logit, so they stay in [0, 1]. Each rate k/n is
    smoothed to ``p = (k + 1/2) / (n + 1)``, so that 0 and 1 have a logit, and the ends of both
    intervals are put back by the median n.

    ``next``: ``mean(y) +- t s sqrt(1 + 1/C)`` over the logits y of C classes: a rate that is
    measured on as many images as theirs, if classes are drawn alike. ``mean``: ``logit(m) +- t
    se(m) / (m (1 - m))`` by the delta method, m the mean of the p. Neither s nor se is below what
    n images alone would make of equal classes, ``1 / ((n + 1) p (1 - p))`` and ``p (1 - p) / (n +
    1)``: five rates of 1 on five images do not make the sixth sure. With fewer than two classes
    both are [0, 1].

    Args:
        rates: Of the classes, in [0, 1].
        images: Images behind each rate, >= 1.
        coverage: Of both intervals.

    Source:
        Hahn and Meeker 1991, "Statistical Intervals", section 4.8 (prediction of one more
        observation); Agresti 2013, "Categorical Data Analysis", section 3.1 (the empirical logit).

    Example:
        >>> found = over_classes([0.8, 0.9, 0.95, 0.7], [50, 50, 50, 50])
        >>> [round(value, 2) for value in found[:5]]
        [0.84, 0.59, 0.95, 0.21, 1.0]
    """
    number = len(rates)
    mean = sum(rates) / number if number else math.nan
    if number < 2:
        return Figure(mean, 0.0, 1.0, 0.0, 1.0, number)
    from scipy.stats import t as student_t

    factor = float(student_t.ppf((1 + coverage) / 2, number - 1))
    smoothed = [(r * n + 0.5) / (n + 1) for r, n in zip(rates, images, strict=True)]
    noise = [p * (1 - p) / (n + 1) for p, n in zip(smoothed, images, strict=True)]
    of_logits = [v / (p * (1 - p)) ** 2 for v, p in zip(noise, smoothed, strict=True)]
    center, variance = _moments([_logit(p) for p in smoothed])
    reach = factor * math.sqrt(max(variance, fmean(of_logits)) * (1 + 1 / number))
    middle, variance = _moments(smoothed)
    half = factor * math.sqrt(max(variance, fmean(noise)) / number) / (middle * (1 - middle))
    typical = median(images)
    ends = [_logit(middle) - half, _logit(middle) + half, center - reach, center + reach]
    low, high, next_low, next_high = (_rough(_expit(end), typical) for end in ends)
    # classes of unequal n: the mean of the rates need not be that of the smoothed ones put back
    return Figure(mean, min(mean, low), max(mean, high), next_low, next_high, number)


def share(hits: int, tried: int, *, coverage: float = COVERAGE) -> Share:
    """Return a share with its exact (Clopper-Pearson) interval; [0, 1] if nothing was tried.

    Example:
        >>> [round(value, 2) for value in share(11, 13)]
        [11, 13, 0.55, 0.98]
    """
    if not tried:
        return Share(hits, tried, 0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(hits, tried).proportion_ci(confidence_level=coverage, method="exact")
    return Share(hits, tried, float(found.low), float(found.high))


def precision_at(prevalence: float, noticed: float, false_alarm: float) -> float:
    """Return the share of alarms that are right: ``p n / (p n + (1 - p) f)``; NaN without alarms.

    Args:
        prevalence: p, the share of the stream that is new, in [0, 1].
        noticed: n, the share of new images that are noticed.
        false_alarm: f, the share of known images that are called unknown.

    Example:
        >>> [round(precision_at(p, 0.87, 0.05), 3) for p in (0.1, 0.01, 0.001)]
        [0.659, 0.149, 0.017]
    """
    right, wrong = prevalence * noticed, (1 - prevalence) * false_alarm
    return right / (right + wrong) if right + wrong > 0 else math.nan


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and variance, with ``n - 1``."""
    return fmean(values), variance_of(values)


def _rough(smoothed: float, images: float) -> float:
    """Return the rate k/n of a smoothed rate ``(k + 1/2) / (n + 1)``, in [0, 1]."""
    return min(1.0, max(0.0, (smoothed * (images + 1) - 0.5) / images))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _expit(value: float) -> float:
    """Return the inverse of the logit, without overflow."""
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0
