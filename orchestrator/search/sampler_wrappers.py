"""Samplers around a sampler: what is left to TPE, and seeds that a resume does not change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.ladder import RETRY_OF

Space = dict[str, BaseDistribution]


class Wrapper(BaseSampler):
    """Passes all calls on to a sampler.

    Args:
        sampler: The sampler.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def view(self, study: Study) -> Study:
        """Return the study as the sampler sees it."""
        return study

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Pass it on."""
        self.sampler.before_trial(self.view(study), trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """Return the parameters that the sampler draws together."""
        return self.sampler.infer_relative_search_space(self.view(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """Draw parameters together."""
        return self.sampler.sample_relative(self.view(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter."""
        seen = self.view(study)
        return self.sampler.sample_independent(seen, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Pass it on."""
        self.sampler.after_trial(self.view(study), trial, state, values)

    def reseed_rng(self) -> None:
        """Draw differently from now on."""
        self.sampler.reseed_rng()


class UnstoppedSampler(Wrapper):
    """Lets a sampler that has tried everything repeat itself: ``--trials`` decides on the end.

    Optuna lets a sampler stop a study only within ``Study.optimize``, and raises otherwise.
    """

    def view(self, study: Study) -> Study:
        """Return the study without its way to be stopped."""
        return cast("Study", _Unstopped(study))


class _Unstopped:
    """A study that cannot be stopped."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        """Return what the study has."""
        return getattr(self._study, name)

    def stop(self) -> None:
        """Go on."""


class PartialSampler(Wrapper):
    """Lets a sampler draw some parameters, and another one, which knows conditions, the rest.

    Optuna's samplers but TPE draw together what all trials have in common, which shrinks as trials
    differ, and everything else at random. Here the common part is fixed before the first trial,
    and the rest is not left to chance.

    Args:
        sampler: Draws ``own``.
        rest: Draws all other parameters.
        own: Names of parameters that every trial has.
    """

    def __init__(self, sampler: BaseSampler, rest: BaseSampler, own: Collection[str]) -> None:
        super().__init__(sampler)
        self.rest, self.own = rest, own

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell both."""
        super().before_trial(study, trial)
        self.rest.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """Return what either draws together, each of its own part."""
        own = super().infer_relative_search_space(study, trial)
        rest = self.rest.infer_relative_search_space(study, trial)
        return self._part(own, own=True) | self._part(rest, own=False)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        """Draw both parts."""
        own = super().sample_relative(study, trial, self._part(search_space, own=True))
        rest = self.rest.sample_relative(study, trial, self._part(search_space, own=False))
        return own | rest

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter by the sampler that it belongs to."""
        sampler = self.sampler if param_name in self.own else self.rest
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tell both."""
        super().after_trial(study, trial, state, values)
        self.rest.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Draw differently from now on."""
        super().reseed_rng()
        self.rest.reseed_rng()

    def _part(self, space: Space, *, own: bool) -> Space:
        return {name: value for name, value in space.items() if (name in self.own) == own}


class SeededSampler(Wrapper):
    """Draws each trial by a new sampler, seeded by the trial's place in the study.

    So a draw depends on the seed and on what the study holds, not on how often the process was
    started: a sweep that was killed draws on as if it had not been.

    Args:
        make: Makes a sampler from a seed; all that it learns must be in the study.
        seed: The study's seed.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        super().__init__(make(derive(seed, 0)))
        self._make, self._seed = make, seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the trial's sampler; a trial that repeats a lost one takes that one's place."""
        trials = study.get_trials(deepcopy=False)
        repeated = sum(RETRY_OF in t.user_attrs for t in trials[: trial.number + 1])
        self.sampler = self._make(derive(self._seed, trial.number - repeated))
        super().before_trial(study, trial)


def derive(seed: int, number: int) -> int:
    """Return a 32-bit seed of one of many draws.

    Example:
        >>> derive(0, 1) == derive(0, 1) != derive(0, 2)
        True
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
