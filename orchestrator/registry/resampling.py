"""Intervals of means over classes and of calibration errors, by resampling groups of images."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trainables.functional.paired_rules import Z

Floats = np.ndarray[Any, np.dtype[np.float64]]

DRAWS, SEED = 2000, 0
FEWER_DRAWS, TOGETHER = 400, 50  # of a calibration error of many groups; draws at a time
SMALL = 5  # classes of fewer groups are resampled together
MANY_GROUPS = 5000  # from here on the bootstrap distribution of a mean is normal
BINS = 15  # of the calibration error, as in `trainables.methods.metrics.calibration`


class Estimate(NamedTuple):
    """A value with the ends of its interval, and the effective number of independent images."""

    value: float
    low: float
    high: float
    effective: float


def class_mean(values: Floats, labels: pd.Series) -> float:
    """Return the mean over classes of the mean value of their images.

    Example:
        >>> class_mean(np.array([1.0, 0.0, 0.0]), pd.Series(["lynx", "lynx", "tabby"]))
        0.25
    """
    return fmean(pd.Series(values).groupby(labels.to_numpy()).mean())


def class_mean_gain(values: Floats, images: pd.DataFrame, draws: int = DRAWS) -> Estimate:
    """Return the mean over classes of the mean value, with a 95 % bootstrap interval by group.

    Groups of images are drawn with replacement within their class; classes of fewer than five
    groups are drawn from together, because one or two groups do not show how they differ. Of ``G``
    groups, deviations are multiplied by ``sqrt(G / (G - 1))``, without which the intervals of small
    classes would be too narrow. Above 5,000 groups the distribution is taken as normal.

    Args:
        values: A value per image ``[N]``.
        images: ``label`` and ``group`` of each image.
        draws: Number of bootstrap samples.
    """
    table = pd.DataFrame({"c": images["label"].to_numpy(), "g": images["group"].to_numpy()})
    sums = table.assign(v=values).groupby(["c", "g"])["v"].agg(["sum", "count"]).reset_index()
    size = sums.groupby("c")["count"].transform("sum").to_numpy(float)
    classes = sums["c"].nunique()
    part = sums["sum"].to_numpy(float) / (size * classes)  # of a group, in the mean over classes
    weight = sums["count"].to_numpy(float) / (size * classes)
    value = float(part.sum())
    deviations = _deviations(part, weight, sums["c"].to_numpy(), draws)
    low, high = (value + float(q) for q in np.quantile(deviations, [0.025, 0.975]))
    return Estimate(value, min(low, value), max(high, value), 1 / float((weight**2).sum()))


def _deviations(part: Floats, weight: Floats, classes: Any, draws: int) -> Floats:
    """Return deviations of the sum of groups' parts under resampling ``[draws]``."""
    rng = np.random.default_rng(SEED)
    total = np.zeros(draws)
    variance = 0.0
    for rows, together in _strata(classes):
        mine, number = part[rows], len(rows)
        if number < 2:
            continue
        expected = (
            np.full(number, mine.mean())
            if together
            else weight[rows] * (mine.sum() / weight[rows].sum())
        )
        residual = (mine - expected) * math.sqrt(number / (number - 1))
        if len(part) > MANY_GROUPS:
            variance += float((residual**2).sum())
        else:
            total += rng.multinomial(number, np.full(number, 1 / number), size=draws) @ residual
    if variance:
        total += math.sqrt(variance) * rng.standard_normal(draws)
    return total


def _strata(classes: Any) -> list[tuple[Any, bool]]:
    """Return the rows that are resampled among each other, and whether they mix classes."""
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    order = np.argsort(counts, kind="stable")
    small = counts < SMALL
    pooled = int(counts[small].sum())
    for code in order:  # a few groups of small classes are joined by the next larger class
        if not 0 < pooled < SMALL:
            break
        if not small[code]:
            small[code], pooled = True, pooled + int(counts[code])
    alone = [(np.flatnonzero(codes == code), False) for code in np.flatnonzero(~small)]
    together = np.flatnonzero(small[codes])
    return [*alone, *([(together, int(small.sum()) > 1)] if len(together) else [])]


def calibration_gain(
    stated: tuple[Floats, Floats], right: tuple[Floats, Floats], groups: Any
) -> tuple[Estimate, tuple[float, float]]:
    """Return how much lower the first calibration error is, and both errors.

    ``ece = sum_b |sum_i (p_i - r_i)| / N`` over the images i of the bin b of their probability.

    Args:
        stated: Probability of the predicted class per image ``[N]``, of both models.
        right: 1 where the prediction is right ``[N]``, of both models.
        groups: Group of each image ``[N]``; groups are drawn with replacement.
    """
    _, index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    size = np.bincount(index).astype(float)
    number = len(size)
    gaps = [_gaps(p, r, index, number) for p, r in zip(stated, right, strict=True)]
    errors = [float(np.abs(gap.sum(0)).sum() / size.sum()) for gap in gaps]
    rng = np.random.default_rng(SEED)
    rounds = (DRAWS if number <= MANY_GROUPS else FEWER_DRAWS) // TOGETHER
    drawn = []
    for _ in range(rounds):
        weight = rng.multinomial(number, np.full(number, 1 / number), size=TOGETHER).astype(float)
        mine, theirs = (np.abs(weight @ gap).sum(1) / (weight @ size) for gap in gaps)
        drawn.append(theirs - mine)
    value = errors[1] - errors[0]
    low, high = (float(q) for q in np.quantile(np.concatenate(drawn), [0.025, 0.975]))
    effective = float(size.sum() ** 2 / (size**2).sum())
    return Estimate(value, min(low, value), max(high, value), effective), (errors[0], errors[1])


def _gaps(stated: Floats, right: Floats, index: Any, number: int) -> Floats:
    """Return the sums of probability minus right answers, by group and bin ``[G, BINS]``."""
    # bins are (low, high]; a probability of 0 is in the first one
    bins = np.clip(np.ceil(stated * BINS).astype(np.int64) - 1, 0, BINS - 1)
    found = np.zeros((number, BINS))
    np.add.at(found, (index, bins), stated - right)
    return found


def rate_estimate(hits: Floats, groups: Any) -> Estimate:
    """Return the share of images with a hit, with the 95 % interval of Wilson 1927.

    It is that of the effective number of images: as many independent ones as have the variance
    that the groups show (``G / (G - 1)`` times the sum of squared deviations of the groups), and at
    most as many as the groups weigh.

    Args:
        hits: 1 for a hit, else 0, per image ``[N]``, N >= 1.
        groups: Group of each image.

    Example:
        >>> none = rate_estimate(np.zeros(10), np.arange(10))
        >>> none.value, none.low, round(none.high, 4)
        (0.0, 0.0, 0.2775)
    """
    _, index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    size, number = np.bincount(index).astype(float), len(hits)
    value = float(hits.mean())
    effective = float(number**2 / (size**2).sum())
    residual = np.bincount(index, weights=hits) - value * size
    variance = len(size) / max(1, len(size) - 1) * float((residual**2).sum()) / number**2
    if variance > 0:
        effective = min(effective, value * (1 - value) / variance)
    scale = 1 + Z**2 / effective
    middle = (value + Z**2 / (2 * effective)) / scale
    half = Z / scale * math.sqrt(value * (1 - value) / effective + Z**2 / (4 * effective**2))
    return Estimate(value, max(0.0, middle - half), min(1.0, middle + half), effective)
