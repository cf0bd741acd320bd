"""Intervals against exact computations: all resamples, the multinomial, coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, binomtest

from orchestrator.registry import resampling
from orchestrator.registry.resampling import (
    calibration_gain,
    class_mean,
    class_mean_gain,
    rate_estimate,
)


def images(labels: list[str], groups: list[object] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"label": labels, "group": list(groups or range(len(labels)))})


def test_interval_is_that_of_the_exact_multinomial() -> None:
    """Twenty pairs, three lost, one won: the bootstrap distribution is a convolution."""
    values = np.array([-1.0] * 3 + [1.0] + [0.0] * 16)
    once = np.array([3 / 20, 16 / 20, 1 / 20])  # chances of -1, 0, 1
    exact = np.array([1.0])
    for _ in range(20):
        exact = np.convolve(exact, once)
    mean = values.mean()
    at = (np.arange(-20, 21) / 20 - mean) * math.sqrt(20 / 19) + mean
    low, high = (at[np.searchsorted(exact.cumsum(), q)] for q in (0.025, 0.975))
    found = class_mean_gain(values, images(["lynx"] * 20), draws=20_000)
    assert found.value == pytest.approx(-0.1)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.effective == pytest.approx(20)


def test_interval_is_that_of_all_resamples_of_two_classes() -> None:
    """Five groups of unequal size a class: all 3125 resamples of each class, all pairs of sums."""
    labels, groups, values = [], [], []
    sizes = {"lynx": (1, 2, 1, 3, 1), "tabby": (2, 2, 1, 1, 4)}
    gains = {"lynx": (1, -1, 0, 1, 0), "tabby": (0, -1, 1, 0, -1)}
    sums = []
    mean = 0.0
    for name in sizes:
        for number, (size, gain) in enumerate(zip(sizes[name], gains[name], strict=True)):
            labels += [name] * size
            groups += [f"{name}{number}"] * size
            values += [float(gain)] * size
        size, gain = np.array(sizes[name], float), np.array(gains[name], float)
        own = float((size * gain).sum() / size.sum())
        mean += own / 2
        residual = size * (gain - own) / size.sum() / 2 * math.sqrt(5 / 4)
        drawn = np.array(list(itertools.product(range(5), repeat=5)))
        sums.append(residual[drawn].sum(1))
    exact = np.add.outer(*sums).ravel()
    low, high = np.quantile(exact, [0.025, 0.975]) + mean
    found = class_mean_gain(np.array(values), images(labels, groups), draws=40_000)
    assert found.value == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    weights = [s / sum(sizes[n]) / 2 for n in sizes for s in sizes[n]]
    assert found.effective == pytest.approx(1 / sum(w**2 for w in weights))


def test_images_of_a_group_count_once() -> None:
    """Ten copies of each image show no more than one does."""
    values = np.array([-1.0, 1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0])
    alone = class_mean_gain(values, images(["lynx"] * 8))
    copied = class_mean_gain(
        np.repeat(values, 10), images(["lynx"] * 80, [n for n in range(8) for _ in range(10)])
    )
    assert copied == pytest.approx(alone)


def test_one_image_of_a_class_does_not_show_a_loss() -> None:
    """It weighs as much as a whole class, and only other small classes show how it may differ."""
    labels = ["big"] * 100 + ["a", "b", "c", "d", "e"]
    values = np.zeros(105)
    values[-1] = -1.0
    found = class_mean_gain(values, images(labels))
    assert found.value == pytest.approx(-1 / 6)
    assert found.low < -0.3
    assert found.high == pytest.approx(0.0, abs=1e-9) or found.high > 0
    alone = class_mean_gain(np.array([0.0] * 100 + [-1.0]), images(["big"] * 100 + ["a"]))
    assert alone.high > alone.value  # joined by the next larger class


@pytest.mark.parametrize("sizes", [(60,), (40, 20, 8, 3, 2, 1)], ids=["one class", "a tail"])
def test_intervals_hold_the_truth_as_often_as_they_say(sizes: tuple[int, ...]) -> None:
    """Chances of a loss and a win are .12 and .08 in every class: the gain is -.04."""
    rng = np.random.default_rng(3)
    labels = [f"c{n}" for n, size in enumerate(sizes) for _ in range(size)]
    table = images(labels)
    held = 0
    for _ in range(400):
        values = rng.choice([-1.0, 1.0, 0.0], p=[0.12, 0.08, 0.80], size=len(labels))
        found = class_mean_gain(values, table, draws=400)
        held += found.low <= -0.04 <= found.high
    # of the bootstrap alone; `paired` widens intervals of few images
    low = binomtest(held, 400).proportion_ci().high
    assert low > 0.92, held


def test_many_groups_are_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.85, 0.05], size=1200)
    table = images([f"c{n % 40}" for n in range(1200)])
    drawn = class_mean_gain(values, table)
    monkeypatch.setattr(resampling, "MANY_GROUPS", 100)
    normal = class_mean_gain(values, table)
    assert normal.value == drawn.value
    width = drawn.high - drawn.low
    assert (normal.low, normal.high) == pytest.approx((drawn.low, drawn.high), abs=0.06 * width)


def test_class_mean_is_balanced() -> None:
    assert class_mean(np.array([1.0, 1, 1, 0]), pd.Series(list("aaab"))) == 0.5


def test_calibration_errors_are_those_of_the_metric() -> None:
    import torch

    from trainables.methods.metrics.calibration import Calibration

    rng = np.random.default_rng(1)
    stated = tuple(rng.uniform(size=300) for _ in range(2))
    right = tuple((rng.uniform(size=300) < 0.7).astype(float) for _ in range(2))
    found, errors = calibration_gain(stated, right, np.arange(300) // 3)
    for p, r, error in zip(stated, right, errors, strict=True):
        share, gap = Calibration().gaps(torch.from_numpy(p), torch.from_numpy(r))
        assert error == pytest.approx(float((share * gap).sum()))
    assert found.value == pytest.approx(errors[1] - errors[0])
    assert found.low < found.value < found.high
    assert found.effective == pytest.approx(100)


def test_a_lower_calibration_error_is_a_gain() -> None:
    right = np.array([1.0] * 90 + [0.0] * 10)
    good, bad = np.full(100, 0.9), np.full(100, 0.99)
    found, errors = calibration_gain((good, bad), (right, right), np.arange(100))
    assert errors == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.09))
    assert found.value == pytest.approx(0.09)
    # of a resample with the share s of right answers: |s - .99| - |s - .9|
    often = binom(100, 0.9).ppf(0.975) / 100
    assert found.low == pytest.approx(abs(often - 0.99) - abs(often - 0.9))


def test_rates_are_those_of_wilson() -> None:
    hits = np.array([1.0] * 8 + [0.0] * 92)
    found = rate_estimate(hits, np.arange(100))
    exact = binomtest(8, 100).proportion_ci(method="wilson")
    assert found.effective == pytest.approx(99)  # the variance of a sample is that of N - 1
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.001)


def test_rates_of_groups_count_groups() -> None:
    hits = np.repeat([1.0, 0.0, 0.0, 0.0, 0.0], 20)
    exact = binomtest(1, 5).proportion_ci(method="wilson")
    found = rate_estimate(hits, np.repeat(np.arange(5), 20))
    assert found.value == 0.2
    assert found.low < exact.low
    assert found.high > exact.high
    assert found.effective == pytest.approx(4)
    none = rate_estimate(np.zeros(100), np.repeat(np.arange(5), 20))
    assert none.high == pytest.approx(binomtest(0, 5).proportion_ci(method="wilson").high, abs=1e-4)
