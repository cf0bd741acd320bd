"""Ridge regression: reference code, brute-force refits, and what chooses its settings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers.vectors import golden
from trainables.artifacts import Classifier
from trainables.closed_form import ridge
from trainables.closed_form.groups import judging
from trainables.closed_form.ridge import BALANCES, leave_out, solve, spectrum
from trainables.closed_form.ridge_classifier import (
    GRID,
    UNJUDGED,
    RidgeSettings,
    choose_regularizer,
    fit_ridge,
    left_out_answers,
)
from trainables.closed_form.statistics import Samples, no_samples, samples
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.heads import Head
from trainables.methods.rebalancers.ridge import Ridge
from trainables.settings import assign

GOLDEN = golden("closed_form")
CLASSES, FEATURES = 4, 7


def drawn(number: int = 60, *, groups: bool = True, seed: int = 0) -> Samples:
    """Return long-tailed samples with weights (one is 0) far from the origin, some in groups."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor([0.55, 0.25, 0.15, 0.05])
    labels = torch.multinomial(share, number, replacement=True, generator=generator)
    noise = torch.randn(number, FEATURES, generator=generator).double()
    weights = torch.rand(number, generator=generator)
    weights[3] = 0
    return samples(
        3 + noise + 1.5 * torch.eye(CLASSES, FEATURES)[labels],
        labels,
        weights=weights,
        groups=torch.randint(25, (number,), generator=generator) if groups else None,
    )


def refit(
    inputs: Tensor, labels: Tensor, weights: Tensor, penalty: float, *, intercept: bool
) -> Tensor:
    """Return W and b ``[M + 1, C]`` of the normal equations, with b unpenalized."""
    ones = torch.full((len(inputs), 1), float(intercept), dtype=torch.float64)
    design = torch.cat([inputs, ones], dim=1)
    penalties = penalty * torch.eye(design.shape[1], dtype=torch.float64)
    penalties[-1, -1] = 0 if intercept else 1
    targets = torch.nn.functional.one_hot(labels, CLASSES).double()
    return torch.linalg.solve(
        design.T @ (weights[:, None] * design) + penalties, design.T @ (weights[:, None] * targets)
    )


@pytest.mark.parametrize("width", [0, 30])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("balance", BALANCES)
def test_left_out_answers_are_those_of_refits_without_each_group(
    balance: str, intercept: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RidgeSettings(balance=balance, intercept=intercept, width=width)
    data = drawn()
    data = data._replace(projection=settings.projection(data.features))
    kept = settings.gather(data, CLASSES)
    weights = data.weights * kept.class_weights[data.labels]  # those of the full counts
    inputs = data.inputs(slice(None))
    penalties = [0.7, 0.05, 20.0]
    wanted = torch.zeros(len(penalties), len(inputs), CLASSES, dtype=torch.float64)
    for group in data.groups.unique():
        rest = data.groups != group
        for level, penalty in enumerate(penalties):
            part = inputs[rest], data.labels[rest], weights[rest]
            left = refit(*part, penalty, intercept=intercept)
            wanted[level, ~rest] = inputs[~rest] @ left[:-1] + left[-1]
    parts = spectrum(kept, intercept=intercept)
    found = left_out_answers(parts, data, weights, penalties)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
    monkeypatch.setattr(ridge, "BLOCK", 1)  # one group per block, one regularizer per product
    assert len(list(leave_out(parts, data, weights, penalties))) == len(data.groups.unique())
    again = left_out_answers(parts, data, weights, penalties)
    torch.testing.assert_close(again, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("balance", BALANCES)
def test_the_fit_solves_the_normal_equations(balance: str) -> None:
    settings, data = RidgeSettings(balance=balance), drawn()
    kept = settings.gather(data, CLASSES)
    weights = data.weights * kept.class_weights[data.labels]
    wanted = refit(data.features, data.labels, weights, 0.2, intercept=True)
    weight, intercept = solve(spectrum(kept), 0.2)
    torch.testing.assert_close(weight, wanted[:-1].T, rtol=0, atol=1e-8)
    torch.testing.assert_close(intercept, wanted[-1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", ["ranpac", "acil", "air"])
def test_the_fit_equals_official_code(case: str) -> None:
    given = GOLDEN.inputs(case)
    labels, fresh = given["labels"], given["fresh"]
    data = samples(given["features"], labels, projection=given["projection"])
    counts = torch.bincount(labels).double()
    class_weights = torch.ones_like(counts)
    if case == "air":  # mean one
        class_weights = 1 / counts / (1 / counts).mean()
    kept = no_samples(class_weights, width=data.width)
    for later in (False, True):  # classes 0 to 2, then 3 and 4
        kept.add(data.part((labels >= 3) == later))
    penalty = GOLDEN.cases[case]["hyperparameters"]["regularizer"]
    weight, intercept = solve(spectrum(kept, intercept=False), penalty)
    assert not intercept.any()
    torch.testing.assert_close(weight, GOLDEN.output(case, "weight"), rtol=1e-8, atol=1e-8)
    logits = data._replace(features=fresh).inputs(slice(None)) @ weight.T
    torch.testing.assert_close(logits, GOLDEN.output(case, "logits"), rtol=1e-8, atol=1e-8)


def test_the_regularizer_has_the_smallest_left_out_error_of_the_classes_that_judge() -> None:
    data = drawn(groups=False)
    settings = RidgeSettings(balance="none")
    kept = settings.gather(data, CLASSES)
    parts, weights = spectrum(kept), data.weights
    judges = judging(data, CLASSES)
    errors = []
    for multiple in GRID:
        answers = left_out_answers(parts, data, weights, [multiple * parts.unit])[0]
        squared = (answers - torch.nn.functional.one_hot(data.labels, CLASSES)).square().sum(1)
        judged = data.labels[judges].unique()
        errors.append(sum(squared[judges & (data.labels == c)].mean() for c in judged))
    wanted = GRID[int(torch.stack(errors).argmin())]
    chosen = choose_regularizer(parts, data, weights, judges)
    assert chosen.multiple == wanted
    left_out = left_out_answers(parts, data, weights, [wanted * parts.unit])[0]
    torch.testing.assert_close(chosen.answers, left_out, rtol=0, atol=1e-12)
    assert fit_ridge(settings, kept, data).regularizer == wanted
    assert GRID[0] < wanted < GRID[-1]


def test_a_class_of_two_groups_does_not_judge_whatever_its_images() -> None:
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    groups = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9])
    data = samples(torch.randn(12, 2), labels, groups=groups)
    assert judging(data, 3).tolist() == [True] * 8 + [False] * 4
    # one class alone judges nothing
    alone = data.part(slice(4, None))
    assert not judging(alone, 3).any()
    fitted = fit_ridge(RidgeSettings(), RidgeSettings().gather(alone, 3), alone)
    assert (fitted.regularizer, fitted.judged) == (UNJUDGED, 0)


def test_a_regularizer_that_is_set_is_taken_in_units_of_the_mean_eigenvalue() -> None:
    data = drawn()
    fitted = fit_ridge(RidgeSettings(regularizer=0.25), RidgeSettings().gather(data, CLASSES), data)
    longer = data._replace(features=100 * data.features)
    again = fit_ridge(
        RidgeSettings(regularizer=0.25), RidgeSettings().gather(longer, CLASSES), longer
    )
    torch.testing.assert_close(again.weight * 100, fitted.weight)
    torch.testing.assert_close(again.intercept, fitted.intercept)
    assert again.scale == pytest.approx(fitted.scale)


def test_equal_features_and_constant_ones_are_defined() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    for features in (torch.zeros(6, 3), torch.ones(6, 3)):
        data = samples(features, labels)
        fitted = fit_ridge(RidgeSettings(), RidgeSettings().gather(data, 2), data)
        assert fitted.weight.isfinite().all()
        torch.testing.assert_close(fitted.intercept, torch.full((2,), 0.5).double())


def test_validation_images_choose_the_regularizer_of_their_smallest_error() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2]).repeat(6)
    features = torch.randn(18, 30, generator=draw) + torch.eye(3, 30)[labels]
    others = torch.tensor([0] * 30 + [1] * 10)  # no image of class 2
    fresh = torch.randn(40, 30, generator=draw) + torch.eye(3, 30)[others]
    zeros = torch.zeros(3)
    before = Classifier(Head.parse("linear"), 30, {}, zeros, torch.full((3,), 6), zeros[:1])
    heard: dict[str, float] = {}
    method = Ridge(chosen_by="validation", balance="none")
    given = {"classifier": before, "features": features, "labels": labels}
    judges = {"validation_features": fresh, "validation_labels": others}
    found = method(**given, **judges, report=lambda metrics, step: heard.update(metrics))
    data = samples(features, labels)
    parts = spectrum(method.gather(data, 3))
    errors = []
    for multiple in GRID:
        weight, intercept = solve(parts, multiple * parts.unit)
        answers = fresh.double() @ weight.T + intercept
        squared = (answers - torch.nn.functional.one_hot(others, 3)).square().sum(1)
        errors.append((squared[others == 0].mean() + squared[others == 1].mean()) / 2)
    wanted = GRID[int(torch.stack(errors).argmin())]
    assert heard["rebalance/ridge/regularizer"] == wanted != GRID[0]
    alone = Ridge(regularizer=wanted, balance="none")(**given)
    assert all(torch.equal(found.state[key], alone.state[key]) for key in alone.state)
    with pytest.raises(ValueError, match="chosen_by: validation needs validation images"):
        method(**given, validation_features=fresh[:0], validation_labels=others[:0])
    with pytest.raises(ValueError, match="chosen_by: must be leave_one_out"):
        method.fit(**given)


def test_a_choice_by_validation_images_is_refused_in_a_recipe_without_them() -> None:
    none = {
        "data.validation_per_class": 0,
        "data.novel_classes": 0,
        "data.validation_novel_classes": 0,
        "data.world": "test",
    }
    chosen = {"rebalance.method.ridge.chosen_by": "validation"}
    with pytest.raises(ConfigError, match=r"data.validation_per_class: .*'ridge' chooses by valid"):
        assign(Experiment(), none | chosen)
    # a regularizer that is set leaves nothing to choose
    assign(Experiment(), none | chosen | {"rebalance.method.ridge.regularizer": 0.1})
    assign(Experiment(), chosen)
