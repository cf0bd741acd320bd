"""Finalists by values: which world gives which numbers, and under which names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.choice.selection import Answers
from orchestrator.execution.execute import export_model
from orchestrator.records import TrialRecord, interval
from orchestrator.trials.finalists import (
    SeedRun,
    World,
    WorldRun,
    of_served,
    recipe_of,
    run_seed,
    summarize,
)
from tests.helpers import ROOT
from trainables.artifacts import Classifier, Evaluation, load_artifact
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import run
from trainables.settings import assign, canonical_json

SETS = [
    "data.image_size=8",
    "classify.training.epochs=1",
    "update.training.epochs=1",
    "score.threshold={known_recall: {keep: 0.8}}",
]
PARAMS: dict[str, Any] = {"classify.training.lr": 0.02}


@pytest.fixture(scope="module")
def base() -> Experiment:
    return load_experiment(ROOT / "experiments" / "digits.yaml", SETS)


@pytest.mark.parametrize("world", ["validation", "test"])
def test_a_run_is_that_of_its_world_and_seed(
    base: Experiment, world: World, tmp_path: Path
) -> None:
    """The same recipe without Ray and storage gives the same numbers in that world alone."""
    tree = base.model_dump(mode="json")
    found = run_seed(tree, PARAMS, 3, str(tmp_path), world=world, gpus=0.0, progress=("s", "r"))
    recipe = assign(base, {**PARAMS, "seed": 3, "data.world": world})
    expected = run(recipe, Context(seed=3))
    assert found.seed == 3
    assert found.metrics == expected["evaluation"].metrics
    if world == "test":
        assert found.answers is None, "answers to test images choose nothing"
        return
    assert found.answers is not None
    shown = np.concatenate([expected[f"held_out_{part}"].labels for part in ("known", "novel")])
    assert found.answers.labels.tolist() == shown.tolist()
    predicted = expected["evaluation"].arrays["predicted"].numpy()
    assert found.answers.predicted.tolist() == (predicted == shown).tolist()


def test_a_finalist_is_tested_in_the_test_world_on_its_seed(base: Experiment) -> None:
    trial = TrialRecord(trial_id="t", number=4, state="COMPLETE", params=PARAMS)
    recipe = recipe_of(trial, 7, base)
    assert (recipe.seed, recipe.data.world) == (7, "test")
    assert recipe.classify.training.lr == 0.02


def test_the_served_soup_is_the_judged_average_of_its_members(
    base: Experiment, tmp_path: Path
) -> None:
    members = [{"ridge": {"regularizer": 0.1}}, {"lda": {"shrinkage": 0.2}}]
    soup: dict[str, Any] = {
        "rebalance.method": "soup",
        "rebalance.method.soup.selection": "uniform",
        "rebalance.method.soup.members": canonical_json(members),
    }
    tree, storage, folder = base.model_dump(mode="json"), str(tmp_path / "s"), tmp_path / "model"
    found = run_seed(tree, soup, 3, storage, world="test", gpus=0.0, progress=("s", "r"))
    recipe = {"seed": 3, "data.world": "test"}
    export_model(tree, {**soup, **recipe}, storage, folder, "first")
    served = load_artifact(Classifier, folder / "classifier")
    judged = load_artifact(Evaluation, folder / "evaluation")
    assert judged.metrics == found.metrics
    alone = [
        run(assign(base, {"rebalance.method": member, **recipe}), Context(seed=3))["classifier"]
        for member in members
    ]
    weights = [each.state["weight"] for each in alone]
    torch.testing.assert_close(served.state["weight"], torch.stack(weights).mean(dim=0))
    assert not torch.allclose(weights[0], weights[1])


# --- names --------------------------------------------------------------------------------------

VALIDATION = {
    "evaluate/accuracy/balanced": 0.6,
    "evaluate/update/forgetting": 0.3,
    "evaluate/first/accuracy": 0.61,
    "evaluate/updated/accuracy": 0.62,
    "evaluate/first/novelty/auroc": 0.63,
}
TEST = {
    "evaluate/accuracy/balanced": 0.5,
    "evaluate/update/forgetting": 0.2,
    "evaluate/first/accuracy": 0.51,
    "evaluate/updated/accuracy": 0.52,
    "evaluate/first/novelty/auroc": 0.53,
}


@pytest.mark.parametrize(
    ("served", "own"),
    [
        ("first", {"test/accuracy": 0.51, "test/novelty/auroc": 0.53}),
        ("updated", {"test/accuracy": 0.52}),
    ],
)
def test_the_test_names_the_model_that_answers_and_leaves_out_the_other(
    served: Any, own: dict[str, float]
) -> None:
    plain = {"evaluate/accuracy/balanced": 0.5, "evaluate/update/forgetting": 0.2}
    assert of_served(TEST, "test", served) == {**plain, **own}


def test_validation_keeps_both_models() -> None:
    found = of_served(VALIDATION, "validation", "updated")
    assert found == {**VALIDATION, "validation/accuracy": 0.62}


def seed_run(seed: int, shift: float = 0.0) -> SeedRun:
    one = np.zeros(1)
    answers = Answers(one.astype(int), one, one, one, one, one, one.astype(int))
    worlds = [
        WorldRun(seed, {name: value + shift for name, value in metrics.items()}, [], kept)
        for metrics, kept in ((VALIDATION, answers), (TEST, None))
    ]
    return SeedRun(seed, *worlds)


def test_a_record_has_each_world_under_its_own_name() -> None:
    trial = TrialRecord(trial_id="t4", number=4, state="COMPLETE", params=PARAMS)
    record = summarize(trial, [seed_run(1), seed_run(5, 0.1)], "updated", "models/t4/evaluation")
    assert (record.trial_id, record.seeds, record.served) == ("t4", [1, 5], "updated")
    assert (record.params, record.arrays) == (PARAMS, "models/t4/evaluation")
    values = {name: found.values for name, found in record.metrics.items()}
    assert {name: pytest.approx(both) for name, both in values.items()} == {
        "evaluate/accuracy/balanced": [0.5, 0.6],
        "evaluate/update/forgetting": [0.2, 0.3],
        "test/accuracy": [0.52, 0.62],
        "validation/accuracy": [0.62, 0.72],
        "validation/evaluate/accuracy/balanced": [0.6, 0.7],
        "validation/evaluate/update/forgetting": [0.3, 0.4],
        "validation/evaluate/first/accuracy": [0.61, 0.71],
        "validation/evaluate/updated/accuracy": [0.62, 0.72],
        "validation/evaluate/first/novelty/auroc": [0.63, 0.73],
    }
    # shares have intervals of their logits, differences have not
    shares = interval(values["test/accuracy"], fraction=True)
    assert record.metrics["test/accuracy"] == shares
    assert shares != interval(values["test/accuracy"])
    forgetting = values["evaluate/update/forgetting"]
    assert record.metrics["evaluate/update/forgetting"] == interval(forgetting)


def test_a_metric_that_a_seed_lacks_is_left_out() -> None:
    trial = TrialRecord(trial_id="t", number=1, state="COMPLETE", params={})
    poor = seed_run(2)
    del poor.validation.metrics["evaluate/accuracy/balanced"]
    del poor.test.metrics["evaluate/update/forgetting"]
    names = summarize(trial, [seed_run(1), poor], "first", None).metrics.keys()
    assert "validation/evaluate/accuracy/balanced" not in names
    assert "evaluate/accuracy/balanced" in names
    assert "evaluate/update/forgetting" not in names
    assert "validation/evaluate/update/forgetting" in names
