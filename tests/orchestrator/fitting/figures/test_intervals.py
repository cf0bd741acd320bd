"""Intervals by class: inside [0, 1], around the mean, wider for fewer groups."""

import numpy as np
import pytest

from orchestrator.fitting.figures.intervals import (
    ClassRate,
    bracket,
    mean_of_rates,
    rates_by_class,
    signed,
)
from orchestrator.records import Interval


def test_mean_and_weights_by_hand() -> None:
    rates = [ClassRate("a", 1.0, 40, 40), ClassRate("b", 0.5, 40, 40)]
    assert mean_of_rates(rates).mean == 0.75
    assert mean_of_rates(rates, [3, 1]).mean == 0.875


@pytest.mark.parametrize("rate", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("groups", [1, 2, 500])
def test_an_interval_stays_in_range_and_holds_its_mean(rate: float, groups: int) -> None:
    found = mean_of_rates([ClassRate("a", rate, groups, groups)])
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high  # nothing is certain, not even at 0 and 1


def test_one_class_is_jeffreys_interval() -> None:
    from scipy.stats import beta

    found = mean_of_rates([ClassRate("a", 0.8, 50, 50)])
    low, high = beta.ppf([0.025, 0.975], 40.5, 10.5)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


def test_groups_are_the_units() -> None:
    alone = mean_of_rates([ClassRate("a", 0.8, 100, 100)])
    shots = mean_of_rates([ClassRate("a", 0.8, 100, 10)])
    assert shots.high - shots.low > 2 * (alone.high - alone.low)


def test_coverage_of_a_mean_over_classes() -> None:
    rng, truth = np.random.default_rng(1), np.array([0.95, 0.8, 0.6, 0.99])
    sizes, held = [100, 40, 20, 10], 0
    for seed in range(200):
        drawn = rng.binomial(sizes, truth) / sizes
        rates = [
            ClassRate(str(n), r, s, s) for n, (r, s) in enumerate(zip(drawn, sizes, strict=True))
        ]
        found = mean_of_rates(rates, seed=seed)
        held += found.low <= truth.mean() <= found.high
    assert held >= 182  # 95 % of 200, less two standard deviations


def test_rates_by_class() -> None:
    holds = np.array([True, True, False, True])
    found = rates_by_class(holds, np.array([1, 1, 1, 0]), np.array([4, 4, 7, 8]), ["x", "y", "z"])
    assert found == {"x": ClassRate("x", 1.0, 1, 1), "y": ClassRate("y", 2 / 3, 3, 2)}


def test_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        mean_of_rates([])


def test_ratios_are_written_as_people_read_them() -> None:
    assert bracket(Interval(mean=1, low=0.9, high=1, values=[1])) == "1.000 [.900, 1.000]"
    found = Interval(mean=-0.0312, low=-0.2, high=0.017, values=[-0.03])
    assert signed(found) == "-.031 [-.200, +.017]"
