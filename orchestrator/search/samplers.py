"""Optuna's samplers by name, and what each of them costs.

Optuna's own implementations draw; what is added here is that a name gives a sampler, that a resume
changes no seed, and that TPE draws what another sampler would draw at random.

Asking for a recipe of the space `full` and telling its values takes, per trial, in seconds of one
CPU core (2026-11-30, a machine under load, so the order of size counts):

======= ========= ========== ==========
sampler 24 trials 100 trials 500 trials
======= ========= ========== ==========
tpe     0.065     0.101      0.232
random  0.005     0.006      0.009
======= ========= ========== ==========

``python -m benchmarks.study_storage`` measures them again.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import Trial

import search_spaces
from orchestrator.search.ladder_view import LadderSampler
from orchestrator.search.sampler_names import DRAW_ALL, HUB, NAMES, SamplerPlan, check_name
from orchestrator.search.sampler_wrappers import (
    PartialSampler,
    SeededSampler,
    UnstoppedSampler,
    derive,
)
from search_spaces.parameters import parameters_of
from search_spaces.pick import FromTrial, Pick, Vary
from trainables.errors import ConfigError, did_you_mean
from trainables.experiment import Experiment
from trainables.methods.method import Choice, Range

CLASSES = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "nsga2": "NSGAIISampler",
    "qmc": "QMCSampler",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "tpe": {"multivariate": True, "group": True, "constant_liar": True},
    "qmc": {"scramble": True},  # unscrambled, it begins in a corner of the space
}


def plan_sampler(
    name: str, *, space: str, base: Experiment, objectives: Sequence[str]
) -> SamplerPlan:
    """Find out which parameters of a space a sampler can draw.

    It is tried on small studies in memory, to fail before a sweep starts and not within it.

    Args:
        name: As for `check_name`.
        space: The search space.
        base: The experiment that the space varies.
        objectives: Metrics that the search compares by.

    Raises:
        ConfigError: The sampler cannot be had, fails on a small study, or can draw no parameter of
            the space.
    """
    check_name(name)
    if name in DRAW_ALL:
        return SamplerPlan(name)
    if name == "cmaes" and len(objectives) != 1:
        raise ConfigError(
            "the sampler 'cmaes' searches by one objective; give one --objective METRIC:max or "
            f":min; received {', '.join(objectives)}"
        )
    vary = search_spaces.load(space)
    reach = _reach(name, vary, base, len(objectives))
    if not any(reach):
        return SamplerPlan(name)
    found = parameters_of(vary, base)
    always = {path: kind for path, kind in found.always.items() if _has_several(kind)}
    drawn = {Range: reach.numbers, Choice: reach.choices}
    own = {path for path, kind in always.items() if drawn[type(kind)]}
    if not own:
        raise ConfigError(
            f"the sampler '{name}' can draw no parameter of the space '{space}': it draws "
            f"{'numbers' if reach.numbers else 'choices'} only, and every recipe has "
            f"{', '.join(always) or 'none'}; give another --sampler"
        )
    left = sorted((always.keys() - own) | set(found.sometimes))
    return SamplerPlan(name, frozenset(own), tuple(left))


def make_sampler(plan: SamplerPlan, seed: int, *, started: int, ladder: bool) -> BaseSampler:
    """Return the sampler of a study.

    Args:
        plan: The sampler and its part of the parameters.
        seed: The study's seed.
        started: Trials that the study has. A class that is named by its module may keep what it
            learned in memory, so it is made once per process, with a seed of its own.
        ladder: The study has a ladder.
    """

    def make(draw: int) -> BaseSampler:
        rest = _create("tpe", derive(draw, 0))
        # a sequence goes on in the study only if its seed stays
        sampler = _create(plan.name, seed if plan.name == "qmc" else draw, rest)
        if plan.own is not None:
            sampler = PartialSampler(sampler, rest, plan.own)
        return LadderSampler(sampler) if ladder else sampler

    if plan.name in NAMES:
        return SeededSampler(make, seed)
    return make(derive(seed, started))


def _create(name: str, seed: int, rest: BaseSampler | None = None) -> BaseSampler:
    """Make a sampler with those of our settings that it takes.

    Raises:
        ConfigError: It needs more than these.
    """
    kind = _find(name)
    taken = inspect.signature(kind).parameters
    settings: dict[str, Any] = {"seed": seed} if "seed" in taken else {}
    if rest is not None and "independent_sampler" in taken:
        settings["independent_sampler"] = rest
        if "warn_independent_sampling" in taken:  # the plan says it once, and before
            settings["warn_independent_sampling"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            sampler = kind(**settings, **SETTINGS.get(name, {}))
        except TypeError as error:
            raise ConfigError(f"the sampler '{name}' cannot be made: {error}") from None
    return sampler if name in NAMES else UnstoppedSampler(sampler)


def _find(name: str) -> type[BaseSampler]:
    """Return the class of a sampler.

    Raises:
        ConfigError: There is none, or it is no sampler.
    """
    if name in NAMES:
        named: type[BaseSampler] = getattr(optuna.samplers, CLASSES[name])
        return named
    source, _, title = name.rpartition(":")
    module = (
        _hub_module(name)
        if source.startswith(f"{HUB}:")
        else search_spaces.own_module(source, f"sampler '{name}'")
    )
    found: type[BaseSampler] | None = getattr(module, title, None)
    if found is None:
        names = [n for n, value in vars(module).items() if _is_sampler(value)]
        raise ConfigError(f"sampler '{name}': there is no '{title}'{did_you_mean(title, names)}")
    if not _is_sampler(found):
        raise ConfigError(f"sampler '{name}': {title} is no optuna.samplers.BaseSampler")
    return found


def _is_sampler(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseSampler)


def _hub_module(name: str) -> ModuleType:
    """Load the package of OptunaHub's registry, or the folder on this machine, of a name.

    The registry's package is downloaded once, into the cache of optunahub.

    Raises:
        ConfigError: It cannot be loaded.
    """
    import optunahub

    package = name.split(":")[1]
    folder = Path(package).resolve()
    try:
        if (folder / "__init__.py").is_file():
            return optunahub.load_local_module(folder.name, registry_root=str(folder.parent))
        return optunahub.load_module(package)
    except Exception as error:  # git, network and the package itself have errors of their own
        reason = str(error).split("\n")[-1].strip()
        raise ConfigError(
            f"sampler '{name}': {package} is no folder, and cannot be loaded from the registry of "
            f"{HUB}: {type(error).__name__}: {reason}"
        ) from None


class Reach(NamedTuple):
    """Which kinds of parameters a sampler draws together, from what it learned of all trials."""

    numbers: bool
    choices: bool


def _reach(name: str, vary: Vary, base: Experiment, num_objectives: int) -> Reach:
    """Try a sampler on small studies in memory.

    One that draws nothing together draws every parameter by itself when it is asked for, and needs
    nobody's help with conditions.

    Args:
        name: The sampler.
        vary: The space's function.
        base: The experiment that it varies.
        num_objectives: How many values each trial has.

    Raises:
        ConfigError: The sampler fails.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def two_kinds(trial: Trial) -> None:
        trial.suggest_int("number", 0, 9)
        trial.suggest_categorical("choice", ["a", "b"])

    def recipe(trial: Trial) -> None:
        vary(Pick(FromTrial(trial)), base)

    drawn: list[set[str]] = []
    for ask in (two_kinds, recipe):
        sampler = _create(name, 0, _create("random", 0))
        directions = [StudyDirection.MAXIMIZE] * num_objectives
        study = optuna.create_study(directions=directions, sampler=sampler)
        try:
            for _ in range(2):
                trial = study.ask()
                ask(trial)
                study.tell(trial, [0.0] * num_objectives)
            space = sampler.infer_relative_search_space(study, study.trials[-1])
        except Exception as error:  # whatever a class of somebody else raises
            reason = str(error).split("\n")[0]
            raise ConfigError(
                f"the sampler '{name}' fails in a try with this space and {num_objectives} "
                f"objective{'s' * (num_objectives > 1)}: {type(error).__name__}: {reason}"
            ) from None
        drawn.append({*space})
    return Reach("number" in drawn[0], "choice" in drawn[0])


def _has_several(allowed: Range | Choice) -> bool:
    """Say whether there is anything to draw."""
    return allowed.low < allowed.high if isinstance(allowed, Range) else len(allowed.values) > 1
