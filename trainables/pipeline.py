"""Stages become steps, wired by the names in their signatures; steps run in this process."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

from pydantic import BaseModel

import trainables
from trainables.context import Context
from trainables.data import Views, build_views
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.methods.method import Method
from trainables.settings import Settings, canonical_json
from trainables.stages import (
    classify,
    discover,
    evaluate,
    extract,
    pretrain,
    rebalance,
    score,
    update,
)

STAGES: dict[str, ModuleType] = {
    "pretrain": pretrain,
    "classify": classify,
    "extract": extract,
    "rebalance": rebalance,
    "score": score,
    "discover": discover,
    "update": update,
    "evaluate": evaluate,
}
OPEN_VIEWS = ("known_train", "validation_known", "validation_novel", "pool", "unlabelled")
EVALUATE_ONLY = ("held_out_known", "held_out_novel", "pool_labels")
# Modules whose change changes no stage's result; all others beside them are in every key.
NOT_IN_RESULTS = frozenset(
    {"__init__", "__main__", "errors", "experiment", "gating", "inference", "lazy", "measure"}
    | {"pipeline", "seeds", "settings", "uploads"}
)


class Step(NamedTuple):
    """One stage of a plan: its settings, and the artifacts it takes and gives, by name."""

    stage: str
    settings: Settings
    inputs: tuple[str, ...]
    outputs: Mapping[str, type]

    @property
    def module(self) -> ModuleType:
        """The stage's module, which has ``run``."""
        return STAGES[self.stage]


Executor = Callable[[Step, Mapping[str, Any], Context], Mapping[str, Any]]


def plan(experiment: Experiment, stages: Iterable[str] = STAGES) -> list[Step]:
    """Wire an experiment's stages from their signatures.

    Args:
        experiment: The recipe.
        stages: Names of the stages to run, in order.

    Raises:
        ConfigError: A stage needs an artifact that nothing before it gives, a stage other than
            ``evaluate`` asks for a held-out view or a pool label, or a method needs a tensor that
            its stage does not provide.
    """
    available = dict.fromkeys(OPEN_VIEWS, "data")
    steps = []
    for name in stages:
        settings = getattr(experiment, name)
        step = Step(name, settings, _inputs(name, settings, available), _outputs(STAGES[name]))
        _check_tensors(step)
        available.update(dict.fromkeys(step.outputs, name))
        steps.append(step)
    return steps


def _inputs(name: str, settings: Settings, available: Mapping[str, str]) -> tuple[str, ...]:
    """Match a stage's keyword-only parameters with what is available before it."""
    wanted = []
    for parameter in _parameters(STAGES[name]):
        key, optional = parameter.name, parameter.default is not inspect.Parameter.empty
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or key == "context":
            continue
        guarded = key in EVALUATE_ONLY or key.startswith("test_")
        if guarded and name != "evaluate":
            if not optional:
                raise ConfigError(
                    f"stage '{name}' asks for '{key}'; only 'evaluate' may read held-out views "
                    "and pool labels"
                )
            if not uses_oracle(settings):
                continue
        elif not guarded and optional and key not in views_read(settings):
            continue
        elif not guarded and key not in available:
            raise ConfigError(_missing(name, key, available))
        wanted.append(key)
    return tuple(wanted)


@cache
def _parameters(module: ModuleType) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a stage's ``run``."""
    return tuple(inspect.signature(module.run).parameters.values())


def _missing(name: str, key: str, available: Mapping[str, str]) -> str:
    """Say which stage would give a missing artifact."""
    givers = [stage for stage, module in STAGES.items() if key in _outputs(module)]
    remedy = f"; put '{givers[0]}' before it" if givers else ""
    return f"stage '{name}' needs '{key}'{remedy}; available: {', '.join(available)}"


@cache  # evaluating the annotations of all stages takes longer than finding stored results
def _outputs(module: ModuleType) -> Mapping[str, type]:
    """Return the artifacts a stage gives: the fields of the NamedTuple that ``run`` returns."""
    result: type = get_type_hints(module.run)["return"]
    return get_type_hints(result)


def _check_tensors(step: Step) -> None:
    """Refuse a method whose call needs a tensor that its stage does not provide."""
    phases = {step.stage: step.settings}
    for number, follow_up in enumerate(getattr(step.settings, "then", ())):
        phases[f"{step.stage}.then.{number}"] = follow_up
    for owner, settings in phases.items():
        _check_methods(owner, settings, step)


def _check_methods(owner: str, settings: Settings, step: Step) -> None:
    """Refuse a method of ``settings`` that needs what the step's stage does not provide."""
    for field, provided in step.module.PROVIDES.items():
        chosen = getattr(settings, field, None)
        if chosen is None:  # as in the stage's own settings
            continue
        # a wrapper's base, which is of its kind, gets the same tensors; others get what it makes
        bases = (method for method in methods_of(chosen) if method.kind == chosen.kind)
        for method in (chosen, *bases):
            missing = method.needs() - provided
            if missing:
                raise ConfigError(
                    f"{owner}.{field}: '{method.name}' needs {', '.join(sorted(missing))}; "
                    f"stage '{step.stage}' provides {', '.join(sorted(provided))}"
                )


def methods_of(settings: BaseModel) -> Iterator[Method]:
    """Yield every method chosen in settings, nested ones included."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Method):
            yield value
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, BaseModel):
                yield from methods_of(part)


def uses_oracle(settings: BaseModel) -> bool:
    """Say whether settings choose an upper bound, which may see what a deployment cannot."""
    return any(method.oracle for method in methods_of(settings))


def views_read(settings: BaseModel) -> frozenset[str]:
    """Return the views that a stage gets for the sake of its chosen methods alone."""
    return frozenset().union(*(method.reads for method in methods_of(settings)))


def describe(steps: Iterable[Step]) -> list[tuple[str, str, str, str]]:
    """Return rows (stage, inputs, outputs, methods) of a plan, for a table."""
    return [
        (
            f"{step.stage}{_cut_short(step)}",
            ", ".join(step.inputs),
            ", ".join(step.outputs),
            ", ".join(f"{m.kind}/{m.name}" for m in methods_of(step.settings)),
        )
        for step in steps
    ]


def _cut_short(step: Step) -> str:
    """Say where a step's training ends, if that is before its schedule does."""
    training = getattr(step.settings, "training", None)
    if training is None or not training.until:
        return ""
    return f" ({training.until} of {training.epochs} epochs)"


def run_step(step: Step, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Run one step in this process and return its artifacts by name."""
    result = step.module.run(step.settings, **inputs, context=context)
    return dict(result._asdict())


def run(
    experiment: Experiment,
    context: Context,
    *,
    stages: Iterable[str] = STAGES,
    views: Views | None = None,
    executor: Executor = run_step,
) -> dict[str, Any]:
    """Run an experiment's stages and return the newest artifact of each name.

    Args:
        experiment: The recipe.
        context: Device, seed, where to report.
        stages: Names of the stages to run, in order.
        views: The cut data; built from ``experiment.data`` when absent.
        executor: Runs one step; the stage store's executor reuses stored results.
    """
    steps = plan(experiment, stages)
    artifacts: dict[str, Any] = (views or build_views(experiment.data))._asdict()
    for step in steps:
        inputs = {name: artifacts[name] for name in step.inputs}
        artifacts.update(executor(step, inputs, context))
    return artifacts


def step_key(step: Step, digests: Mapping[str, str], seed: int) -> str:
    """Return the content key of a step's result (SHA-256, hex).

    Equal settings, input contents, seed and code give an equal key, in any process on any host.

    Args:
        step: The step.
        digests: Content digest of each of the step's inputs.
        seed: The run's seed.
    """
    real = {
        "stage": step.stage,
        "settings": step.settings.model_dump(mode="json"),
        "inputs": {name: digests[name] for name in step.inputs},
        "seed": seed,
        "code": code_version(step.stage, tuple(sorted(m.__module__ for m in _classes(step)))),
    }
    return hashlib.sha256(canonical_json(real).encode()).hexdigest()


def whole(step: Step) -> Step:
    """Return the step with its training to the end of the schedule: what a shorter one is part of.

    Example:
        >>> from trainables.settings import assign
        >>> settings = assign(Experiment(), {"classify.training.until": 3})
        >>> whole(plan(settings)[1]) == plan(Experiment())[1]
        True
    """
    training = getattr(step.settings, "training", None)
    if training is None or not training.until:
        return step
    full = training.model_copy(update={"until": 0})
    return step._replace(settings=step.settings.model_copy(update={"training": full}))


def _classes(step: Step) -> list[type[Method]]:
    return [type(method) for method in methods_of(step.settings)]


@cache
def code_version(stage: str, method_modules: tuple[str, ...]) -> str:
    """Return a digest of the source files that a stage's result depends on."""
    root = Path(trainables.__file__).parent
    files = {root / "stages" / f"{stage}.py"}
    files |= {path for path in root.glob("*.py") if path.stem not in NOT_IN_RESULTS}
    for module in method_modules:
        files.add(root.parent / (module.replace(".", "/") + ".py"))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
