"""Where the next recipe comes from: a tree-structured Parzen estimator that knows conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._tpe.sampler import (
    _split_trials,
    default_gamma,
    default_gamma_multiobjective,
    default_weights,
)
from optuna.trial import TrialState

from orchestrator.observations import Array, Numbers, Observations
from orchestrator.parzen import Axes, ParzenEstimator

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STARTUP_TRIALS = 10
weights = cache(default_weights)  # of so many trials: old ones count less
CANDIDATES = 24  # drawn from the good trials' density for each group
LEARNED_FROM = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class Past(NamedTuple):
    """The numbers of the trials that a trial's parameters are drawn from, oldest first."""

    good: Numbers
    poor: Numbers


class GroupedTPE(BaseSampler):
    """TPE that draws together what belongs together.

    All unconditional parameters are one group; the parameters ``c.v.*`` that exist because ``c``
    took the value ``v`` are another. A group is drawn jointly when its first parameter is asked
    for, so only the groups of the chosen methods cost time. Running trials count as poor ones,
    which keeps concurrent trials apart.

    A group's draw is that of Optuna's ``TPESampler(multivariate=True, constant_liar=True)`` over
    the group, with the same random numbers: of 24 points from the density of the good trials (a
    tenth, at most 25 for a single objective) the one at which it exceeds that of the poor trials
    most. It costs less because the trials are split once per trial and not per group, each
    trial's parameters are read once, and `orchestrator.parzen` works on whole arrays. (Optuna's
    own ``group=True`` draws the groups of all methods for every trial.)

    Args:
        seed: Seed of the draws.
        startup_trials: So many trials are drawn at random first.
        view: What TPE sees in place of the study.
    """

    def __init__(
        self,
        seed: int,
        startup_trials: int = STARTUP_TRIALS,
        view: Callable[[Study], Any] = lambda study: study,
    ) -> None:
        self._view = view
        self._startup_trials = startup_trials
        self._random = RandomSampler(seed)
        self._rng = np.random.RandomState(seed)
        self._begin("")

    def _begin(self, study: str) -> None:
        """Know nothing of a study yet."""
        self._study_name = study
        self._groups: dict[str, dict[str, BaseDistribution]] | None = None
        self._drawn: dict[tuple[int, str], dict[str, Any]] = {}
        self._observations = Observations()
        self._pasts: dict[int, Past | None] = {}  # of trials that draw
        self._good: dict[tuple[str, ...], tuple[Any, ParzenEstimator]] = {}  # by parameters

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Keep nothing of another study."""
        if study.study_name != self._study_name:
            self._begin(study.study_name)

    def reseed_rng(self) -> None:
        """Draw differently from now on."""
        self._rng.seed()
        self._random.reseed_rng()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: groups are drawn when they are asked for."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: groups are drawn when they are asked for."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a parameter's value; the first one of a group draws the group."""
        group = group_of(param_name, trial.params)
        key = (trial.number, group)
        members = self._known(study).setdefault(group, {})
        members[param_name] = param_distribution
        if param_name not in self._drawn.get(key, {}):
            past = self._past(study, trial)
            if past is None:
                return self._random.sample_independent(study, trial, param_name, param_distribution)
            missing = {n: d for n, d in members.items() if n not in trial.params and not d.single()}
            self._drawn[key] = self._draw(past, missing, single=len(study.directions) == 1)
        return self._drawn[key][param_name]

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forget what was drawn for the trial."""
        self._drawn = {key: drawn for key, drawn in self._drawn.items() if key[0] != trial.number}
        self._pasts.pop(trial.number, None)

    def _draw(
        self, past: Past, space: Mapping[str, BaseDistribution], *, single: bool
    ) -> dict[str, Any]:
        """Return the most promising of some points that are like the good trials.

        Args:
            past: The trials to learn from.
            space: Distribution by name.
            single: There is one objective; with several, all good trials weigh the same.
        """
        axes, names = Axes(space.values()), tuple(space)
        poor_ones = self._observations.of(names, past.poor)
        poor = ParzenEstimator(axes, poor_ones, weights(len(poor_ones)))
        good_ones = self._observations.of(names, past.good)
        good = self._good_density(axes, names, good_ones, single=single)
        points = good.sample(self._rng, CANDIDATES)
        best = np.argmax(good.log_pdf(points) - poor.log_pdf(points))
        values = zip(space.items(), points[best].tolist(), strict=True)
        return {name: distribution.to_external_repr(v) for (name, distribution), v in values}

    def _good_density(
        self, axes: Axes, names: tuple[str, ...], observed: Array, *, single: bool
    ) -> ParzenEstimator:
        """Return the density of a group's good trials, made anew only if they are others."""
        key = (axes.key, observed.tobytes())
        if names not in self._good or self._good[names][0] != key:
            count = len(observed)
            weighed = weights(count) if single else np.ones(count)
            self._good[names] = (key, ParzenEstimator(axes, observed, weighed))
        return self._good[names][1]

    def _past(self, study: Study, trial: FrozenTrial) -> Past | None:
        """Split the trials as they are at a trial's first draw; ``None``: there are too few."""
        if trial.number not in self._pasts:
            seen = self._view(study)
            # what Optuna's samplers call, and so what a view answers
            trials = seen._get_trials(deepcopy=False, states=LEARNED_FROM, use_cache=False)
            others = [one for one in trials if one.number != trial.number]
            ended = sum(one.state is not TrialState.RUNNING for one in others)
            if ended < self._startup_trials:
                self._pasts[trial.number] = None
                return None
            gamma = default_gamma if len(study.directions) == 1 else default_gamma_multiobjective
            self._observations.read(others)
            split = _split_trials(seen, others, gamma(ended))
            good, poor = (np.array([t.number for t in part], dtype=np.intp) for part in split)
            self._pasts[trial.number] = Past(good, poor)
        return self._pasts[trial.number]

    def _known(self, study: Study) -> dict[str, dict[str, BaseDistribution]]:
        """Return the members of each group, learned from the study's trials."""
        if self._groups is None:
            self._groups = {}
            for past in study.get_trials(deepcopy=False):
                for name, distribution in past.distributions.items():
                    group = group_of(name, past.params)
                    self._groups.setdefault(group, {})[name] = distribution
        return self._groups


def group_of(name: str, params: Mapping[str, Any]) -> str:
    """Return the choice that a parameter exists by, or an empty text: it always exists.

    Example:
        >>> group_of("loss.ldam.scale", {"loss": "ldam", "lr": 0.1})
        'loss.ldam'
        >>> group_of("lr", {"loss": "ldam"})
        ''
    """
    owners = (f"{choice}.{value}" for choice, value in params.items())
    return max((owner for owner in owners if name.startswith(f"{owner}.")), key=len, default="")
