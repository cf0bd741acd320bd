"""What a sampler sees of a study with a ladder: recipes and their ranks, instead of rungs."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any, cast

from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.ladder import ENDED, PROMOTED_FROM, is_finite, rung_of
from orchestrator.search.sampler_wrappers import Wrapper


class LadderSampler(Wrapper):
    """Shows a sampler the study as `Ranked`; any sampler will do.

    Args:
        sampler: The sampler.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        super().__init__(sampler)
        self._seen: Study | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Rank the recipes once for all draws of the trial."""
        self._seen = None
        super().before_trial(study, trial)

    def view(self, study: Study) -> Study:
        """Return the study as the sampler sees it; no trial ends between two draws of another."""
        if self._seen is None:
            self._seen = cast("Study", Ranked(study))
        return self._seen


class Ranked:
    """A study in which each recipe is one complete trial, whose value is its rank.

    A recipe ranks above all that trained less, and among those on its highest rung by value: values
    of different rungs are not compared. A promotion is not a trial of its own, otherwise a good
    recipe's lower rungs would count as poor trials; while it runs, its recipe counts by the rung
    below. Samplers that learn from complete trials alone learn from all rungs in this way.

    Args:
        study: A study of one objective; everything but its trials is passed on.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        trials = study.get_trials(deepcopy=False)
        sign = 1.0 if study.direction is StudyDirection.MAXIMIZE else -1.0
        reached: dict[int, tuple[int, float]] = {}  # by number of a recipe's first trial
        for trial in trials:
            if trial.state in ENDED and is_finite(trial):
                rank = rung_of(trial), sign * cast("float", trial.value)
                first = _first(trials, trial)
                reached[first] = max(reached.get(first, rank), rank)
        places = {rank: float(n) for n, rank in enumerate(sorted(set(reached.values())))}
        self._shown = {
            number: _complete(trials[number], sign * places[rank])
            for number, rank in reached.items()
        }

    def __getattr__(self, name: str) -> Any:
        """Return what the study has."""
        return getattr(self._study, name)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Copies of the trials."""
        return self.get_trials()

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials."""
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        """Return the trials as Optuna's samplers ask for them: by a private name."""
        trials = self._study._get_trials(deepcopy=False, use_cache=use_cache)
        found = [
            self._shown.get(trial.number, trial)
            for trial in trials
            if PROMOTED_FROM not in trial.user_attrs
        ]
        found = [trial for trial in found if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _first(trials: list[FrozenTrial], trial: FrozenTrial) -> int:
    """Return the number of a recipe's trial on the rung that it began on."""
    while PROMOTED_FROM in trial.user_attrs:
        trial = trials[trial.user_attrs[PROMOTED_FROM]]
    return trial.number


def _complete(trial: FrozenTrial, value: float) -> FrozenTrial:
    """Return a copy of a trial that is complete with a value."""
    shown = copy.copy(trial)
    shown.state = TrialState.COMPLETE
    shown.value = value
    return shown
