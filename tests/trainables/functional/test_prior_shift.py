"""Tests with a long tail of their own: priors, weights, and one prior exchanged for another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainables.functional.prior_shift import (
    FACTORS,
    accuracy_under,
    exchange_prior,
    held_prior_strength,
    shifted_prior,
)
from trainables.methods.metrics.prior_shift import PriorShift

COUNTS = torch.tensor([5, 500, 50])  # not in the order of their sizes
GOLDEN = "tests/golden/longtail_rebalancers.npz"


def gaussians(prior: torch.Tensor, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels drawn from a prior, and each sample's true log-likelihood under each class."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(prior, size, replacement=True, generator=draws)
    points = 1.5 * torch.eye(3)[labels] + torch.randn(size, 3, generator=draws)
    likelihood = -(points[:, None] - 1.5 * torch.eye(3)).square().sum(2) / 2
    return labels, likelihood


def log_prior() -> torch.Tensor:
    return (COUNTS / COUNTS.sum()).log()


@pytest.mark.parametrize("factor", [1.0, *FACTORS])
def test_the_prior_falls_by_the_factor_from_the_most_frequent_to_the_rarest(factor: float) -> None:
    forward = shifted_prior(COUNTS, factor, backward=False)
    assert float(forward.sum()) == pytest.approx(1)
    assert float(forward[1] / forward[0]) == pytest.approx(factor)
    assert float(forward[1] / forward[2]) == pytest.approx(math.sqrt(factor))
    backward = shifted_prior(COUNTS, factor, backward=True)
    torch.testing.assert_close(backward[[1, 2, 0]], forward[[0, 2, 1]])


def test_odd_class_counts_have_a_prior() -> None:
    for counts in ([3], [4, 4, 4], [0, 0], [7, 0, 0, 1]):
        for backward in (False, True):
            prior = shifted_prior(torch.tensor(counts), 50.0, backward=backward)
            assert prior.isfinite().all()
            assert float(prior.sum()) == pytest.approx(1)
    equal = shifted_prior(torch.tensor([4, 4, 4]), 4.0, backward=False)
    assert equal.tolist() == sorted(equal.tolist(), reverse=True), "ranked by their number"


def test_weights_give_what_copies_of_the_samples_would() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2])
    right = torch.tensor([1, 0, 1, 1, 1, 0, 0, 0]).bool()
    prior = torch.tensor([8.0, 4.0, 1.0], dtype=torch.float64) / 13
    # two, four and two samples of a class, copied to 8 : 4 : 1
    copies = torch.repeat_interleave(torch.arange(8), torch.tensor([8, 8, 2, 2, 2, 2, 1, 1]))
    assert accuracy_under(prior, right, labels) == pytest.approx(
        float(right[copies].double().mean())
    )


def test_an_even_prior_is_the_balanced_accuracy_and_absent_classes_take_no_part() -> None:
    labels, right = torch.tensor([0, 0, 0, 2]), torch.tensor([True, False, False, True])
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert accuracy_under(even, right, labels) == pytest.approx((1 / 3 + 1) / 2)
    nobody = accuracy_under(even, right[:0], labels[:0])
    assert math.isnan(nobody)


def test_exchange_agrees_with_the_formula_for_a_known_test_prior() -> None:
    with np.load(GOLDEN) as arrays:
        logits, train, test = (
            torch.from_numpy(arrays[f"in/{k}"]) for k in ("logits", "prior10", "target_prior")
        )
        wanted = torch.from_numpy(arrays["logit_adjust_target_prior/adjusted"])
    counts = (train * 1e15).round().long()  # counts of which the prior is the share
    torch.testing.assert_close(exchange_prior(logits, counts, test), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("held", [0.0, 0.5, 1.0])
def test_the_held_prior_is_found_on_balanced_samples(held: float) -> None:
    labels, likelihood = gaussians(torch.ones(3), 3000)
    found = held_prior_strength(likelihood + held * log_prior(), labels, COUNTS)
    assert found == pytest.approx(held, abs=0.06)  # a step of the search is 0.05
    rare = torch.cat([torch.arange(3000), (labels == 0).nonzero()[:, 0]])
    again = held_prior_strength(likelihood[rare] + held * log_prior(), labels[rare], COUNTS)
    assert again == pytest.approx(found, abs=0.051), "every class weighs alike"


def test_no_samples_or_equal_counts_hold_no_prior() -> None:
    labels, likelihood = gaussians(torch.ones(3), 20)
    assert held_prior_strength(likelihood[:0], labels[:0], COUNTS) == 0.0
    assert held_prior_strength(likelihood, labels, torch.tensor([3, 3, 3])) == 0.0


def test_a_known_prior_helps_under_a_shift_whatever_prior_the_logits_hold() -> None:
    labels, likelihood = gaussians(torch.ones(3), 3000)
    seen, known = gaussians(torch.ones(3), 3000, seed=1)
    best = {}
    for held in (0.0, 1.0):
        found = PriorShift()(
            logits=likelihood + held * log_prior(),
            labels=labels,
            class_counts=COUNTS,
            validation_logits=known + held * log_prior(),
            validation_labels=seen,
        )
        assert len(found) == 1 + 4 * len(FACTORS)
        for factor in (50, 10):
            name = f"prior_shift/backward_{factor}"
            assert found[f"{name}/prior_given"] > found[name]
        best[held] = found["prior_shift/backward_50/prior_given"]
    # told the test's prior, it does not matter what the classifier believed
    assert best[0.0] == pytest.approx(best[1.0], abs=0.01)


def test_no_samples_give_no_metrics() -> None:
    labels, likelihood = gaussians(torch.ones(3), 5)
    found = PriorShift()(
        logits=likelihood[:0],
        labels=labels[:0],
        class_counts=COUNTS,
        validation_logits=likelihood,
        validation_labels=labels,
    )
    assert found == {}
