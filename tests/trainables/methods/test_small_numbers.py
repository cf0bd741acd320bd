"""Numbers that float32 loses: probabilities near 1, shares of bins, smoothed mass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainables.methods.losses.label_smoothing import LabelSmoothing
from trainables.methods.metrics.calibration import Calibration
from trainables.methods.scores.gen import GEN


@pytest.mark.parametrize("gap", [10.0, 20.0, 30.0])
def test_gen_keeps_what_is_left_of_a_probability_near_one(gap: float) -> None:
    logits = torch.tensor([[gap, 0.0]])
    small = math.exp(-gap) / (1 + math.exp(-gap))  # 1 - p of the first class
    exact = -2 * (small * (1 - small)) ** 0.1
    assert float(GEN()(logits=logits)) == pytest.approx(exact, rel=1e-3)


def test_gen_tells_sure_samples_apart() -> None:
    confidence = GEN()(logits=torch.tensor([[18.0, 0.0], [25.0, 0.0], [32.0, 0.0]]))
    assert bool((confidence.diff() > 0.01).all())


def test_smoothing_in_float64_is_that_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(5, (7,), generator=draw)
    found = LabelSmoothing(epsilon=0.1)(logits=logits, labels=labels)
    wanted = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert float(found) == pytest.approx(float(wanted), rel=1e-13)


def test_calibration_errors_are_computed_in_float64() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(333, 4)) * 2
    labels = rng.integers(0, 4, 333)
    metrics = Calibration(bins=7)(logits=torch.from_numpy(logits), labels=torch.from_numpy(labels))
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    top, right = probability.max(1), probability.argmax(1) == labels
    index = np.minimum((top * 7).astype(int), 6)
    wanted = sum(
        abs(right[index == b].mean() - top[index == b].mean()) * (index == b).sum() / 333
        for b in range(7)
        if (index == b).any()
    )
    assert metrics["calibration/ece"] == pytest.approx(wanted, rel=1e-12)
