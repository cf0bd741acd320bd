"""One learning rate means the same for features of every length."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from trainables.features.head_training import (
    HeadTrainingSpec,
    ScaledLinear,
    shuffled_draws,
    train_job,
)
from trainables.methods.heads import Head
from trainables.models.head_rate import LONGEST, rate_factor

DIMENSION, CLASSES = 32, 5


def blobs(length: float, count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes with non-negative features of a mean squared length."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.rand(CLASSES, DIMENSION, generator=draw)
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, DIMENSION, generator=draw)
    features = (centers[labels] + 0.45 * noise).relu()
    return features * (length / features.square().sum(1).mean()).sqrt(), labels


def module(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)  # of this test's own draws
        return Head.parse(name).build(DIMENSION, CLASSES)


@pytest.mark.parametrize("name", ["linear", "mlp", "aligned", "group_softmax"])
@pytest.mark.parametrize(("length", "factor"), [(50.0, 1.0), (100.0, 1.0), (400.0, 0.25)])
def test_factor_is_the_reference_over_the_second_moment(
    name: str, length: float, factor: float
) -> None:
    assert rate_factor(module(name), blobs(length)[0]) == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize("name", ["cosine", "causal_norm", "nearest_mean"])
def test_heads_that_normalize_features_keep_their_rate(name: str) -> None:
    assert rate_factor(module(name), blobs(400.0)[0]) == 1.0


def test_no_features_and_zero_features_keep_the_rate() -> None:
    assert rate_factor(module("linear"), torch.zeros(0, DIMENSION)) == 1.0
    assert rate_factor(module("linear"), torch.zeros(3, DIMENSION)) == 1.0


def loss_after(length: float, *, scaled: bool, lr: float = 0.5) -> float:
    """Training loss of a head, relative to what the best of several rates reaches."""
    features, labels = blobs(length)
    head = module("linear")
    draws = shuffled_draws(len(labels), epochs=8, generator=torch.Generator().manual_seed(2))
    job = HeadTrainingSpec(head, draws, 40, lr, 0.0, scaled=scaled)
    trained = train_job(job, features=features, labels=labels)
    return float(nn.functional.cross_entropy(trained(features), labels).detach())


def test_long_features_learn_as_short_ones_do() -> None:
    short = loss_after(LONGEST, scaled=True)
    for length in (16 * LONGEST, 25 * LONGEST):
        # the same path in logits but for the bias, which learns more slowly
        assert loss_after(length, scaled=True) < 1.5 * short + 0.1
        assert loss_after(length, scaled=False) > 3 * loss_after(length, scaled=True)


def test_factors_per_class_keep_their_rate() -> None:
    features, labels = blobs(25 * LONGEST)
    results = []
    for scaled in (False, True):
        linear = nn.Linear(DIMENSION, CLASSES).requires_grad_(False)
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
        draws = torch.arange(40)
        job = HeadTrainingSpec(ScaledLinear(linear), draws, 10, 0.01, 0.0, scaled=scaled)
        results.append(train_job(job, features=features, labels=labels).scale.detach())
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_a_loss_that_rises_by_an_order_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    from trainables.training.loop import _warn_of_rise

    losses = [1.0, 2.0, 11.0, 30.0]
    with caplog.at_level(logging.WARNING):
        for end in range(1, len(losses)):
            history = [{"a/loss": value} for value in losses[:end]]
            _warn_of_rise("a/loss", history, {"a/loss": losses[end]})
    assert len(caplog.records) == 1
    assert "rose from 1 to 11" in caplog.text
