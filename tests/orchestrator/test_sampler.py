"""The sampler draws what Optuna's own would draw, from the same random numbers."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from orchestrator.ladder import OneEach, promoted
from orchestrator.observations import Observations
from orchestrator.sampler import STARTUP_TRIALS, GroupedTPE, group_of

Vary = Callable[[Trial], None]


class DrawnByOptuna(GroupedTPE):
    """The same groups, each drawn by Optuna's `TPESampler`: the slow way, and the oracle."""

    def __init__(self, seed: int, view: Callable[[Study], Any] = lambda study: study) -> None:
        super().__init__(seed, view=view)
        self.tpe = TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True, seed=seed
        )

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        group = group_of(param_name, trial.params)
        members = self._known(study).setdefault(group, {})
        members[param_name] = param_distribution
        key = (trial.number, group)
        if param_name not in self._drawn.get(key, {}):
            missing = {n: d for n, d in members.items() if n not in trial.params}
            self._drawn[key] = self.tpe.sample_relative(self._view(study), trial, missing)
        if param_name in self._drawn[key]:
            return self._drawn[key][param_name]
        seen = self._view(study)
        return self.tpe.sample_independent(seen, trial, param_name, param_distribution)


def conditional(trial: Trial) -> None:
    """Ask for every kind of parameter, most of them on a condition, one behind another."""
    loss = trial.suggest_categorical("loss", ["plain", "focal", "ldam"])
    if loss == "focal":
        trial.suggest_float("loss.focal.gamma", 0.5, 5.0)
        trial.suggest_int("loss.focal.warmup", 0, 20, step=5)
    elif loss == "ldam":
        form = trial.suggest_categorical("loss.ldam.form", ["hard", "soft"])
        trial.suggest_float(f"loss.ldam.form.{form}.scale", 1.0, 64.0, log=True)
        trial.suggest_float("loss.ldam.margin", 0.0, 1.0, step=0.1)
    trial.suggest_float("lr", 1e-4, 1.0, log=True)
    if trial.suggest_categorical("mix", [True, False]):
        trial.suggest_int("mix.True.copies", 1, 100, log=True)
    trial.suggest_int("width", 1, 8)


def flat(trial: Trial) -> None:
    trial.suggest_float("a", 0.0, 1.0)
    trial.suggest_float("b", 1e-3, 1.0, log=True)
    trial.suggest_categorical("c", ["x", "y", "z"])
    trial.suggest_int("d", 1, 9)


def internal(trial: Any) -> dict[str, float]:
    """Return a trial's parameters as Optuna's internal numbers."""
    kinds = trial.distributions
    return {name: kinds[name].to_internal_repr(value) for name, value in trial.params.items()}


def numbers(trial: Trial) -> tuple[float, float]:
    """Return two smooth values of a trial's parameters, in conflict with each other."""
    first = second = 0.0
    for name, value in internal(trial).items():
        first += math.sin(value + len(name))
        second += math.cos(value - len(name))
    return first, second


def search(
    sampler: BaseSampler,
    vary: Vary,
    *,
    trials: int = 45,
    objectives: int = 1,
    at_once: int = 1,
    failing: int = 0,
    pruned: int = 0,
    promoting: int = 0,
    name: str = "first",
    succession: Callable[[], BaseSampler] | None = None,
) -> Study:
    """Run a study; every so many trials one fails, is stopped, or is promoted.

    Args:
        at_once: So many trials run side by side.
        succession: Makes the sampler of the second half: the study went on in a new process.
    """
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][:objectives]
    study = optuna.create_study(directions=directions, sampler=sampler, study_name=name)
    running: list[Trial] = []
    for number in range(trials):
        if succession and number == trials // 2:
            study.sampler = succession()
        trial = study.ask()
        vary(trial)
        running.append(trial)
        while len(running) >= at_once:
            ended = running.pop(0)
            values = numbers(ended)[:objectives]
            if failing and ended.number % failing == 0:
                study.tell(ended, state=TrialState.FAIL)
            elif pruned and ended.number % pruned == 0:
                ended.report(values[0], ended.number % 3)
                study.tell(ended, state=TrialState.PRUNED)
            else:
                study.tell(ended, values)
        if promoting and number % promoting == 0:
            source = study.get_trials(deepcopy=False)[number // 2]
            place = study._storage.create_new_trial(study._study_id, promoted(source))
            if number % (2 * promoting):  # the others are still running
                study._storage.set_trial_state_values(place, TrialState.COMPLETE, [1.0])
    return study


def same(ours: Study, theirs: Study) -> None:
    """Compare two studies trial by trial; numbers may differ in the last digits."""
    found, expected = ours.get_trials(), theirs.get_trials()
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert internal(one) == pytest.approx(internal(other), rel=1e-9), one.number
        assert {n: type(v) for n, v in one.params.items()} == {
            n: type(v) for n, v in other.params.items()
        }
        assert one.state == other.state


CASES: dict[str, dict[str, Any]] = {
    "one after another": {},
    "side by side": {"at_once": 5},
    "failed and stopped": {"failing": 7, "pruned": 3, "at_once": 2},
    "hardly any complete": {"pruned": 1, "trials": 40},
    "several objectives": {"objectives": 2, "at_once": 3, "failing": 8, "trials": 60},
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(2))
def test_draws_are_optunas(case: str, seed: int) -> None:
    settings = CASES[case]
    ours = search(GroupedTPE(seed), conditional, **settings)
    same(ours, search(DrawnByOptuna(seed), conditional, **settings))
    assert len({str(t.params) for t in ours.get_trials()}) > 0.8 * len(ours.trials)


def test_a_study_that_goes_on_draws_like_optunas() -> None:
    ours = search(GroupedTPE(0), conditional, succession=lambda: GroupedTPE(1))
    same(ours, search(DrawnByOptuna(0), conditional, succession=lambda: DrawnByOptuna(1)))


def test_a_view_is_what_it_learns_from() -> None:
    settings: dict[str, Any] = {"promoting": 5, "at_once": 2}
    ours = search(GroupedTPE(0, view=OneEach), conditional, **settings)
    same(ours, search(DrawnByOptuna(0, view=OneEach), conditional, **settings))
    whole = search(GroupedTPE(0), conditional, **settings)
    drawn = [[t.params for t in study.get_trials()] for study in (ours, whole)]
    assert drawn[0] != drawn[1]  # or the promoted trials would not matter


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("seed", range(3))
def test_without_conditions_it_is_optunas_grouped_sampler(seed: int) -> None:
    theirs = TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
    same(search(GroupedTPE(seed), flat), search(theirs, flat))


def test_a_seed_decides() -> None:
    first, again, other = (search(GroupedTPE(seed), conditional).get_trials() for seed in (3, 3, 4))
    assert [t.params for t in first] == [t.params for t in again] != [t.params for t in other]


def test_another_study_starts_afresh() -> None:
    used, fresh = GroupedTPE(0), GroupedTPE(0)
    search(used, conditional)
    fresh._rng.set_state(used._rng.get_state())
    fresh._random = copy.deepcopy(used._random)
    same(search(used, flat, name="second"), search(fresh, flat, name="second"))


def test_trials_without_parameters_are_no_observations() -> None:
    empty = create_trial(value=1.0)
    filled = create_trial(
        value=1.0, params={"a": 0.5}, distributions={"a": FloatDistribution(0.0, 1.0)}
    )
    trials = [empty, filled, empty]
    for number, trial in enumerate(copied := [copy.copy(trial) for trial in trials]):
        trial.number = number
    observations = Observations()
    observations.read(copied)
    assert observations.of(["a"], np.arange(3)).tolist() == [[0.5]]
    assert observations.of(["a", "b"], np.arange(3)).shape == (0, 2)
