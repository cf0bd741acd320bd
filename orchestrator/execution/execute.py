"""Execution of one recipe through the stage store, and export of its model as a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from orchestrator.execution.store_executor import StoreExecutor, cached_views, view_digests
from orchestrator.execution.stored_precision import for_gpu_groups
from orchestrator.execution.train_group import GroupRunner
from orchestrator.records import StageUse
from orchestrator.store.stage_store import StageStore
from trainables.artifacts import save_artifact
from trainables.context import Context
from trainables.data.source_names import with_last_names
from trainables.experiment import Experiment
from trainables.inference.model import REFERENCE
from trainables.inference.reference import reference_of
from trainables.pipeline import run
from trainables.settings import assign, build, dump_yaml


class RecipeResult(NamedTuple):
    """Result of one recipe: artifacts by name, metrics, stage results used, wall seconds."""

    artifacts: dict[str, Any]
    metrics: dict[str, float]
    uses: list[StageUse]
    seconds: float


def execute(
    experiment: Experiment,
    store: StageStore,
    context: Context,
    *,
    resend_reports: bool = False,
    workers: int = 1,
    gpu: bool = False,
    begun: Callable[[str], None] | None = None,
) -> RecipeResult:
    """Run a recipe's stages through the store; worker groups may run the training stages.

    Args:
        experiment: The recipe.
        store: Stage store.
        context: Device, seed and report function.
        resend_reports: See `StoreExecutor`.
        workers: Workers per training of a backbone; one worker is this process.
        gpu: Give each of several workers a GPU.
        begun: See `StoreExecutor`.

    Raises:
        GroupFailedError: A training in a worker group failed.
    """
    start = time.perf_counter()
    views = cached_views(experiment.data)
    if workers > 1 and gpu:
        experiment = for_gpu_groups(experiment)
    group = GroupRunner(experiment, store, workers=workers, gpu=gpu) if workers > 1 else None
    executor = StoreExecutor(
        store, view_digests(views), resend_reports=resend_reports, group=group, begun=begun
    )
    artifacts = run(experiment, context, views=views, executor=executor)
    metrics: dict[str, float] = artifacts["evaluation"].metrics
    return RecipeResult(artifacts, metrics, executor.uses, time.perf_counter() - start)


def validate(
    experiment: Experiment, store: StageStore, context: Context, **options: Any
) -> tuple[RecipeResult, list[dict[str, Any]]]:
    """Run a recipe in its validation worlds and return mean metrics, and the arrays of each world.

    With two new classes or more for validation there are two worlds, see `Data.validation_worlds`.
    A metric that one of them lacks is left out. Only the first one reports epochs; the others reuse
    its trainings.

    Args:
        experiment: The recipe.
        store: Stage store.
        context: Device, seed and report function.
        **options: Further arguments of `execute`.
    """
    first, *others = experiment.data.validation_worlds
    found = [execute(assign(experiment, {"data.world": first}), store, context, **options)]
    silent = replace(context, report=lambda metrics, step: None)
    for world in others:
        again = {**options, "resend_reports": False}
        found.append(execute(assign(experiment, {"data.world": world}), store, silent, **again))
    common = set.intersection(*(set(result.metrics) for result in found))
    metrics = {
        name: fmean(result.metrics[name] for result in found)
        for name in found[0].metrics
        if name in common
    }
    uses = {use.key: use for result in found for use in result.uses}
    merged = RecipeResult(
        found[0].artifacts, metrics, list(uses.values()), sum(result.seconds for result in found)
    )
    return merged, [result.artifacts["evaluation"].arrays for result in found]


def rebuild(tree: dict[str, Any]) -> Experiment:
    """Return the experiment of a dumped recipe; the last experiment is cached."""
    return _rebuild(json.dumps(tree))


@lru_cache(maxsize=1)
def _rebuild(document: str) -> Experiment:
    return build(Experiment, json.loads(document))


# the artifacts of a recipe's two models, under the names that an exported model gives them
MODELS: dict[str, dict[str, str]] = {
    "first": {"backbone": "backbone", "classifier": "classifier", "scorer": "scorer"},
    "updated": {
        "backbone": "updated_backbone",
        "classifier": "updated_classifier",
        "scorer": "updated_scorer",
    },
}


def export_model(
    tree: dict[str, Any],
    changes: dict[str, Any],
    storage: str,
    folder: Path,
    served: str = "updated",
) -> RecipeResult:
    """Write one of a recipe's models and its evaluation into a folder, from stored stage results.

    Returns the results of the recipe's stages.

    Args:
        tree: The base recipe as plain values.
        changes: Dotted path to value.
        storage: Storage of the stage results.
        folder: Target of ``experiment.yaml``, in which paths are cut to their last names, and of
            one folder per artifact. Answers to known images that the model was not fitted to come
            with it, where there are any; see `trainables.inference.reference.Reference`.
        served: The model that will answer: ``first``, before the update, or ``updated``.
    """
    experiment = assign(rebuild(tree), changes)
    outcome = execute(experiment, StageStore(storage), Context(seed=experiment.seed))
    folder.mkdir(parents=True, exist_ok=True)
    shown = with_last_names(experiment.model_dump(mode="json"))  # it travels to the registry
    text = dump_yaml(build(Experiment, shown))
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    for name, artifact in MODELS[served].items():
        save_artifact(outcome.artifacts[artifact], folder / name)
    save_artifact(outcome.artifacts["evaluation"], folder / "evaluation")
    reference = reference_of(outcome.artifacts, MODELS[served])
    if reference is not None:
        save_artifact(reference, folder / REFERENCE)
    return outcome
