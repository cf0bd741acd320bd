"""Which parameters every recipe of a space has: of small spaces by hand, of all by drawing."""

from typing import Any

import optuna
import pytest

import search_spaces
from search_spaces.parameters import parameters_of
from search_spaces.pick import FromTrial, Pick
from tests.helpers.spaces import conditional
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.method import Choice, Range
from trainables.settings import assign

BASE = Experiment()


def test_conditions_are_found_one_behind_the_other() -> None:
    found = parameters_of(conditional, BASE)
    assert list(found.always) == ["x", "y", "loss", "mode"]
    assert found.always["x"] == Range(0.0, 1.0)
    assert found.sometimes == [
        "loss.focal.gamma", "loss.ldam.form", "loss.ldam.form.hard.scale",
        "loss.ldam.form.soft.scale", "loss.ldam.margin",
    ]  # fmt: skip


def test_a_range_that_depends_on_a_choice_is_a_condition_too() -> None:
    def vary(pick: Pick, base: Experiment) -> Experiment:
        most = pick.value("most", 1, Choice((1, 2)))
        pick.value("x", 0.5, Range(0.0, most))
        return base

    found = parameters_of(vary, BASE)
    assert (list(found.always), found.sometimes) == (["most"], ["x"])


@pytest.mark.parametrize("default", [0.0, 0.5])
def test_numbers_decide_too(default: float) -> None:
    def vary(pick: Pick, base: Experiment) -> Experiment:
        if pick.value("x", default, Range(0.0, 1.0)) > 0.9:
            pick.value("more", 1, Choice((1, 2)))
        return base

    found = parameters_of(vary, BASE)
    assert (list(found.always), found.sometimes) == (["x"], ["more"])


def test_values_that_do_not_go_together_are_no_recipe() -> None:
    def vary(pick: Pick, base: Experiment) -> Experiment:
        if pick.value("a", 1, Choice((1, 2))) == 2:
            pick.value("never", 1, Choice((1, 2)))
            raise ConfigError("no")
        return base

    found = parameters_of(vary, BASE)
    assert (list(found.always), found.sometimes) == (["a"], [])


def test_a_base_beyond_the_list_is_no_recipe_of_the_space() -> None:
    base = assign(BASE, {"discover.pseudo_labeler": "oracle"})
    found = parameters_of(search_spaces.load("full"), base)
    allowed = found.always["discover.pseudo_labeler"]
    assert isinstance(allowed, Choice)
    assert "oracle" not in allowed.values


@pytest.mark.parametrize("space", search_spaces.names())
def test_random_recipes_have_them(space: str) -> None:
    vary, choices = search_spaces.load(space), dict[str, list[Any]]()
    found = parameters_of(vary, BASE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes = []
    for _ in range(150):
        trial = study.ask()
        vary(Pick(FromTrial(trial, choices)), BASE)
        recipes.append(trial.params.keys())
    assert set.intersection(*map(set, recipes)) == found.always.keys()
    assert set.union(*map(set, recipes)) <= {*found.always, *found.sometimes}
