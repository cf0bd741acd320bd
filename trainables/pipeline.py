"""Plan the steps of a recipe by the parameter names of its stages, and run them in this process."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

from pydantic import BaseModel

from trainables.context import Context
from trainables.data.service_settings import SERVICE
from trainables.data.views import Views, build_views
from trainables.errors import ConfigError
from trainables.experiment import Experiment, Pretrain
from trainables.inference.service_check import check_thresholds
from trainables.keys import methods_of, result_key
from trainables.models.backbone import build_trunk, check_backbone
from trainables.models.extraction.stored_features import FeaturesInMemory
from trainables.models.precision import (
    WORTH_PROBING,
    ComputeFormat,
    Race,
    compute_format,
    format_names,
    run_race,
)
from trainables.settings import Settings
from trainables.stages import (
    classify,
    discover,
    evaluate,
    extract,
    extract_held_out,
    pretrain,
    rebalance,
    rescore,
    score,
    update,
)
from trainables.stages.pretrain import trunk_architecture
from trainables.training.classify_model import tuner_of
from trainables.training.classify_settings import Classify, Training
from trainables.weights.pretrained import find_weights
from trainables.weights.timm_networks import SMALL_IMAGE

logger = logging.getLogger(__name__)

PRECISION = ("precision", "layout")
STAGES: dict[str, ModuleType] = {
    "pretrain": pretrain,
    "classify": classify,
    "extract": extract,
    "rebalance": rebalance,
    "score": score,
    "discover": discover,
    "update": update,
    "rescore": rescore,
    "extract_held_out": extract_held_out,
    "evaluate": evaluate,
}
# stages that take another one's settings: the same methods, for the updated model and the test
SETTINGS_OF = {"rescore": "score", "extract_held_out": "extract"}
SCORERS = ("scorer", "updated_scorer")
OPEN_VIEWS = ("known_train", "validation_known", "validation_novel", "pool", "unlabelled")
HELD_OUT_VIEWS = ("held_out_known", "held_out_novel", "held_out_unknown")
EVALUATE_ONLY = (*HELD_OUT_VIEWS, "held_out_features", "withheld", "pool_labels")


class Step(NamedTuple):
    """A planned stage with settings, and the names of its input and output artifacts."""

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
        ConfigError: A stage needs an artifact that no earlier stage produces, a stage other than
            ``evaluate`` requires a held-out view, its features or pool labels, or a method needs a
            tensor that its stage does not provide.
    """
    available = dict.fromkeys(OPEN_VIEWS, "data")
    steps = []
    for name in stages:
        settings = settings_of(experiment, name)
        step = Step(name, settings, _inputs(name, settings, available), _outputs(STAGES[name]))
        _check_tensors(step)
        available.update(dict.fromkeys(step.outputs, name))
        steps.append(step)
    return steps


def check_trunk(experiment: Experiment) -> None:
    """Refuse a trunk that can't be had, pooled or trained as a recipe says, before anything runs.

    Raises:
        ConfigError: One line with the remedy.
    """
    pretrain, update = experiment.pretrain, experiment.update
    check_backbone(pretrain.backbone, pretrain.method, experiment.data.image_size)
    tuners = [experiment.trunk_tuner(), *([update.trunk] if update.mode == "full" else [])]
    odd = [t for t in tuners if t.stochastic_depth or t.name not in ("auto", "frozen", "full")]
    if pretrain.pooling == "default" and not pretrain.layer and not odd:
        return
    size = experiment.data.image_size or SMALL_IMAGE
    weights = find_weights(pretrain.backbone, pretrain.method, size)
    architecture = trunk_architecture(pretrain, weights)
    for tuner in odd or tuners[:1]:
        trunk = build_trunk(architecture, size, drop_path=tuner.stochastic_depth)
        tuner.prepare(trunk)
        tuner.rates(trunk)


def settings_of(experiment: Experiment, stage: str) -> Settings:
    """Return the settings of a stage.

    Example:
        >>> settings_of(Experiment(), "rescore") == Experiment().score
        True
    """
    found: Settings = getattr(experiment, SETTINGS_OF.get(stage, stage))
    return found


def _inputs(name: str, settings: Settings, available: Mapping[str, str]) -> tuple[str, ...]:
    """Match a stage's keyword-only parameters with the available views and artifacts."""
    wanted = []
    for parameter in _parameters(STAGES[name]):
        key, optional = parameter.name, parameter.default is not inspect.Parameter.empty
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or key == "context":
            continue
        guarded = key in EVALUATE_ONLY or key.startswith("test_")
        if guarded and not _may_see(name, key):
            if not optional:
                raise ConfigError(
                    f"stage '{name}' requires '{key}'; only 'evaluate' may use held-out views "
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


def _may_see(stage: str, key: str) -> bool:
    """Say whether a stage may take held-out data; what `extract_held_out` gives is guarded too."""
    return stage == "evaluate" or (stage == "extract_held_out" and key in HELD_OUT_VIEWS)


@cache
def _parameters(module: ModuleType) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a stage's ``run``."""
    return tuple(inspect.signature(module.run).parameters.values())


def _missing(name: str, key: str, available: Mapping[str, str]) -> str:
    """Return the message for a missing artifact, with the stage that produces the artifact."""
    givers = [stage for stage, module in STAGES.items() if key in _outputs(module)]
    remedy = f"; add the stage '{givers[0]}' before '{name}'" if givers else ""
    return f"stage '{name}' needs '{key}'{remedy}; available: {', '.join(available)}"


@cache  # evaluating the annotations of all stages takes longer than looking up stored results
def _outputs(module: ModuleType) -> Mapping[str, type]:
    """Return a stage's output artifacts, the fields of the NamedTuple that ``run`` returns."""
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
    """Refuse a method of ``settings`` that needs a tensor that its stage does not provide."""
    for field, provided in step.module.PROVIDES.items():
        chosen = getattr(settings, field, None)
        if chosen is None:  # a follow-up phase takes the stage's setting
            continue
        # a wrapper passes its tensors on to a base of the same kind, but not to other methods
        bases = (method for method in methods_of(chosen) if method.kind == chosen.kind)
        for method in (chosen, *bases):
            missing = method.required_inputs() - provided
            if missing:
                raise ConfigError(
                    f"{owner}.{field}: '{method.name}' needs {', '.join(sorted(missing))}; "
                    f"stage '{step.stage}' provides {', '.join(sorted(provided))}"
                )


def uses_oracle(settings: BaseModel) -> bool:
    """Say whether settings choose an upper bound, which may use labels that a deployment lacks."""
    return any(method.oracle for method in methods_of(settings))


def views_read(settings: BaseModel) -> frozenset[str]:
    """Return the additional views that the methods in a stage's settings need."""
    return frozenset().union(*(method.extra_views for method in methods_of(settings)))


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
    """Return a note on a training that ends before its schedule."""
    training = getattr(step.settings, "training", None)
    if training is None or not training.until:
        return ""
    return f" ({training.until} of {training.epochs} epochs)"


def run_step(step: Step, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Run one step in this process and return its artifacts by name."""
    step = with_precision(step, inputs, context)
    result = step.module.run(step.settings, **inputs, context=context)
    return dict(result._asdict())


def run(
    experiment: Experiment,
    context: Context,
    *,
    views: Views | None = None,
    executor: Executor = run_step,
) -> dict[str, Any]:
    """Run all stages of an experiment and return the newest artifact of each name.

    Args:
        experiment: The recipe.
        context: Device, seed, report function.
        views: Views of the data; by default built from ``experiment.data``.
        executor: Function that runs one step; the stage store's executor reuses stored results.
    """
    steps = plan(experiment)
    if context.features is None:
        context = replace(context, features=FeaturesInMemory())
    artifacts: dict[str, Any] = (views or build_views(experiment.data))._asdict()
    for step in steps:
        inputs = {name: artifacts[name] for name in step.inputs}
        artifacts.update(executor(step, inputs, context))
        if experiment.data.world == SERVICE:
            found = [artifacts[name] for name in SCORERS if name in step.outputs]
            check_thresholds(experiment, found, artifacts)
    return artifacts


Choose = Callable[[Race, Context], ComputeFormat]


def with_precision(
    step: Step, inputs: Mapping[str, Any], context: Context, choose: Choose | None = None
) -> Step:
    """Return the step with what ``auto`` stands for in the precision and layout of its training.

    A training on fewer than 20,000 images takes float32 and channels-last, because measuring would
    cost more than it saves. Other steps are returned as they are.

    Args:
        step: The step.
        inputs: Its inputs by name.
        context: Device of the training.
        choose: Makes the choice of a long training; by default measured once per process.
    """
    training = _training(step)
    if training is None or "auto" not in (training.precision, training.layout):
        return step
    choice = compute_format(training.precision, training.layout)
    if _images(step, inputs) >= WORTH_PROBING:
        race = Race(
            architecture=_architecture(step, inputs),
            image_size=int(inputs["known_train"].images.shape[1]),
            batch_size=training.batch_size,
            precision=training.precision,
            layout=training.layout,
        )
        choice = (choose or measured)(race, context)
        names = ", ".join(format_names(choice))
        logger.info("%s trains in %s: the fastest on this machine", step.stage, names)
    precision, layout = format_names(choice)
    chosen = training.model_copy(update={"precision": precision, "layout": layout})
    return step._replace(settings=step.settings.model_copy(update={"training": chosen}))


def chosen_precision(step: Step) -> dict[str, str]:
    """Return precision and layout of a step that trains a network, by the settings' full names."""
    training = _training(step)
    if training is None:
        return {}
    return {f"{step.stage}.training.{name}": getattr(training, name) for name in PRECISION}


def _training(step: Step) -> Training | None:
    """Return the settings of a step that trains a network in a precision of its own."""
    settings = step.settings
    if isinstance(settings, Pretrain) and settings.method.trains:
        return settings.training
    return settings.training if isinstance(settings, Classify) else None


def measured(race: Race, context: Context) -> ComputeFormat:
    """Measure on the context's device; a process measures each race once."""
    return _measured(race, str(context.device))


@cache
def _measured(race: Race, device: str) -> ComputeFormat:
    return run_race(build_trunk(race.architecture, race.image_size).to(device), race, device)


def _images(step: Step, inputs: Mapping[str, Any]) -> int:
    """Return how many images a training will see; where the trunk is frozen, it sees none."""
    settings: Any = step.settings
    if isinstance(settings, Classify) and not tuner_of(settings, inputs["backbone"]).moves:
        return 0
    if step.stage == "pretrain":
        passes = int(settings.method.views) * int(settings.training.epochs)
    else:
        passes = sum(int(phase.training.epochs) for phase in settings.phases())
    return passes * len(inputs["known_train"].indices)


def _architecture(step: Step, inputs: Mapping[str, Any]) -> str:
    """Return the architecture of the network that a step trains, without branches it will get."""
    backbone = inputs.get("backbone")
    settings: Any = step.settings
    return str(settings.backbone if backbone is None else backbone.architecture)


def step_key(step: Step, digests: Mapping[str, str], seed: int) -> str:
    """Return the content key of a step's result (SHA-256, hex); see `trainables.keys.result_key`.

    Args:
        step: The step.
        digests: `trainables.keys.identity` of each of the step's inputs, by name.
        seed: The run's seed.
    """
    inputs = {name: digests[name] for name in step.inputs}
    return result_key(step.module, step.settings, inputs, seed)


def whole(step: Step) -> Step:
    """Return the step with its training extended to the end of the schedule.

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
