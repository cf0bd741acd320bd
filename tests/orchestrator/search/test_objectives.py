"""Objectives are metrics that recipes measure; any other name is refused before Ray starts."""

from __future__ import annotations

import pytest

import search_spaces
from orchestrator.options import parse_objective
from orchestrator.records import Objective
from orchestrator.search.objectives import NAMES, OF_NEW_CLASSES, PATTERN, check_objectives
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.pipeline import run
from trainables.settings import assign

SMALL = {
    "classify.training.epochs": 1,
    "update.training.epochs": 1,
    "score.threshold": {"known_recall": {"keep": 0.5}},
}


def test_every_metric_of_a_recipe_is_known() -> None:
    recipe = assign(Experiment(), SMALL)
    metrics = run(recipe, Context(seed=0))["evaluation"].metrics
    assert len(metrics) > 40
    unknown = sorted(m for m in metrics if m not in NAMES and not PATTERN.fullmatch(m))
    assert unknown == [
        "evaluate/leaked_pretraining",
        "evaluate/oracle",
        "evaluate/unknown_pretraining",
    ]


@pytest.mark.parametrize("space", search_spaces.names())
def test_objectives_of_the_spaces_are_known(space: str) -> None:
    check_objectives([parse_objective(text) for text in search_spaces.objectives(space)])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("x", ""),
        ("evaluate/acuracy/balanced", "evaluate/accuracy/balanced"),
        ("evaluate/novelty/auroc/fewer", "evaluate/novelty/auroc/few"),
        ("accuracy", ""),
    ],
)
def test_other_names_are_refused_with_the_nearest_one(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"no metric is called '{name}'.*{nearest}"):
        check_objectives([Objective(metric=name, mode="max")])


def test_objectives_on_new_classes_are_refused_where_there_are_none() -> None:
    closed = {"data.novel_classes": 0, "data.validation_novel_classes": 0}
    recipe = assign(Experiment(), {**SMALL, **closed})
    metrics = run(recipe, Context(seed=0))["evaluation"].metrics
    refused = [name for name in NAMES if OF_NEW_CLASSES.fullmatch(name)]
    assert len(refused) > 10
    for name in refused:
        assert name not in metrics
        with pytest.raises(ConfigError, match=r"data\.novel_classes is 0"):
            check_objectives([Objective(metric=name, mode="max")], closed=True)
    left = [name for name in metrics if name in NAMES]
    check_objectives([Objective(metric=name, mode="max") for name in left], closed=True)


def test_in_service_nothing_is_chosen_by_the_test_part() -> None:
    own = Objective(metric="out_of_fold/accuracy/balanced", mode="max")
    check_objectives([own, Objective(metric="evaluate/cost/parameters", mode="min")], service=True)
    with pytest.raises(ConfigError, match="is of the test part in world service"):
        check_objectives([Objective(metric="evaluate/accuracy", mode="max")], service=True)
    with pytest.raises(ConfigError, match="is measured in world service alone"):
        check_objectives([own], service=False)
    check_objectives([own])  # before the recipe is read
