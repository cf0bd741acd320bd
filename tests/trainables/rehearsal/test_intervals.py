"""Intervals over classes: exact ones against scipy, t-intervals by the draws that they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta

from trainables.rehearsal.intervals import over_classes, precision_at, share


@pytest.mark.parametrize(("hits", "tried"), [(0, 5), (11, 13), (13, 13), (1, 1), (40, 200)])
def test_the_interval_of_a_share_is_clopper_pearson(hits: int, tried: int) -> None:
    found = share(hits, tried)
    low = beta.ppf(0.025, hits, tried - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, tried - hits) if hits < tried else 1.0
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


def test_nothing_tried_says_nothing() -> None:
    assert share(0, 0) == (0, 0, 0.0, 1.0)


def test_precision_is_that_of_the_rule() -> None:
    # .87 noticed at .05: of 1,000 photos 100 are new: 87 right alarms, 45 false ones
    assert precision_at(0.1, 0.87, 0.05) == pytest.approx(87 / 132)
    assert precision_at(0.01, 0.87, 0.05) == pytest.approx(8.7 / (8.7 + 49.5))
    assert math.isnan(precision_at(0.0, 0.5, 0.0))


def drawn(seed: int, classes: int, images: int, center: float) -> tuple[np.ndarray, float]:
    """Return rates of classes whose logit is normal, and the mean of such rates."""
    rng = np.random.default_rng(seed)
    true = 1 / (1 + np.exp(-(center + 1.2 * rng.standard_normal(classes))))
    many = 1 / (1 + np.exp(-(center + 1.2 * np.random.default_rng(0).standard_normal(100_000))))
    return rng.binomial(images, true) / images, float(many.mean())


@pytest.mark.parametrize("center", [-1.5, 0.0, 1.5])
def test_the_next_class_lies_in_its_interval_as_often_as_stated(center: float) -> None:
    held = mean_held = 0
    rounds = 1500
    for seed in range(rounds):
        rates, mean = drawn(seed, 21, 100, center)
        found = over_classes(rates[:20].tolist(), [100] * 20)
        held += found.next_low <= rates[20] <= found.next_high
        mean_held += found.low <= mean <= found.high
        assert 0 <= found.next_low <= found.low <= found.mean <= found.high <= 1
    # three standard errors of 1,500 rounds are .017
    assert held / rounds == pytest.approx(0.95, abs=0.017)
    assert mean_held / rounds == pytest.approx(0.95, abs=0.02)


def test_an_interval_of_the_mean_would_not_hold_the_next_class() -> None:
    held = 0
    for seed in range(300):
        rates, _ = drawn(seed, 21, 100, 0.0)
        found = over_classes(rates[:20].tolist(), [100] * 20)
        held += found.low <= rates[20] <= found.high
    assert held / 300 < 0.6


def test_rates_of_one_are_surer_with_more_images() -> None:
    few, many = (over_classes([1.0] * 5, [n] * 5) for n in (5, 500))
    assert few.mean == many.mean == few.high == many.next_high == 1.0
    # by hand: y = log(5.5 / 0.5), s^2 = 6 / (5.5 * 0.5), t of 4 degrees of freedom
    low = math.log(11) - 2.776445 * math.sqrt(6 / 2.75 * 1.2)
    smoothed = 1 / (1 + math.exp(-low))
    assert few.next_low == pytest.approx((smoothed * 6 - 0.5) / 5, abs=1e-6)
    assert few.next_low < 0.5 < 0.9 < many.next_low < 1


def test_a_figure_by_hand() -> None:
    found = over_classes([0.2, 0.5, 0.8], [9, 9, 9])
    p = [(9 * r + 0.5) / 10 for r in (0.2, 0.5, 0.8)]
    y = [math.log(v / (1 - v)) for v in p]
    t = 4.302653
    reach = t * np.std(y, ddof=1) * math.sqrt(4 / 3)
    half = t * np.std(p, ddof=1) / math.sqrt(3) / 0.25

    def back(value: float) -> float:
        return (10 / (1 + math.exp(-value)) - 0.5) / 9

    assert found.mean == pytest.approx(0.5)
    assert found[1:5] == pytest.approx(
        (back(-half), back(half), max(0.0, back(-reach)), min(1.0, back(reach))), abs=1e-6
    )


def test_one_class_says_nothing_of_the_next() -> None:
    found = over_classes([0.5], [10])
    assert found == (0.5, 0.0, 1.0, 0.0, 1.0, 1)
    assert math.isnan(over_classes([], []).mean)
