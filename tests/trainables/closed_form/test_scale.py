"""The scale of answers: its likelihood, and its limits."""

from __future__ import annotations

import pytest
import torch

from trainables.closed_form import scale as module
from trainables.closed_form.scale import fit_scale


def likelihood(
    scale: float, answers: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> float:
    """Return the weighted negative log-likelihood under labels smoothed by 1 / (N + 1)."""
    surprise = torch.nn.functional.cross_entropy(
        scale * answers, labels, label_smoothing=1 / (len(labels) + 1), reduction="none"
    )
    return float((surprise * weights).sum() / weights.sum())


@pytest.mark.parametrize("block", [2**24, 7])
def test_the_scale_has_the_largest_likelihood(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    draw = torch.Generator().manual_seed(0)
    answers = torch.randn(90, 5, generator=draw).double()
    labels = torch.multinomial((2.5 * answers).softmax(1), 1, generator=draw).flatten()
    weights = torch.rand(90, generator=draw).double()
    found = fit_scale(answers, labels, weights)
    grid = [found * factor for factor in (0.9, 0.999, 1.0, 1.001, 1.1)]
    losses = [likelihood(scale, answers, labels, weights) for scale in grid]
    assert min(losses) == losses[2]
    assert 1.5 < found < 4


def test_answers_that_are_all_right_have_a_finite_scale_that_grows_with_their_number() -> None:
    def sure(number: int) -> float:
        labels = torch.arange(number) % 2
        return fit_scale(torch.eye(2).double()[labels], labels)

    # p of the right class is that of the smoothed label: 1 - 1 / (N + 1) / 2
    for number in (4, 400):
        wanted = torch.tensor(1 - 0.5 / (number + 1), dtype=torch.float64).logit()
        assert sure(number) == pytest.approx(float(wanted), rel=1e-9)


def test_the_scale_makes_up_for_that_of_the_answers() -> None:
    draw = torch.Generator().manual_seed(1)
    answers, labels = torch.randn(50, 3, generator=draw), torch.randint(3, (50,), generator=draw)
    answers[torch.arange(50), labels] += 1
    for factor in (1e-3, 1e3):
        assert fit_scale(factor * answers, labels) * factor == pytest.approx(
            fit_scale(answers, labels), rel=1e-6
        )


def test_answers_that_say_nothing_or_the_contrary_have_the_smallest_scale() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    wrong = 1 - torch.eye(2)[labels]
    assert fit_scale(wrong, labels) == pytest.approx(1e-4, rel=0.1)
    assert fit_scale(torch.zeros(4, 2), labels) == pytest.approx(1e-4, rel=0.1)
    assert fit_scale(torch.zeros(0, 2), torch.zeros(0).long()) == 1.0
