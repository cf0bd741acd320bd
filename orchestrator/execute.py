"""Steps run through the stage store: computed once, by whoever asks first."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from orchestrator.continuation import course_of
from orchestrator.records import StageUse
from orchestrator.store import Computed, StageStore, Stored
from orchestrator.train_group import GroupRunner, trains
from trainables.artifacts import save_artifact
from trainables.context import Context, Report
from trainables.data import Views, build_views
from trainables.experiment import Data, Experiment
from trainables.pipeline import Step, run, run_step, step_key
from trainables.settings import assign, build, dump_yaml


@dataclass
class StoreExecutor:
    """Runs steps through a store and remembers what was asked for.

    Args:
        store: Where results live.
        digests: Content digest of each view; digests of results are added as steps run.
        replay: Send the stored reports of a reused step again, so that a scheduler that compares
            trials by epoch judges them alike.
        group: Runs the steps that train in a group of workers; ``None`` runs all of them here.
    """

    store: StageStore
    digests: dict[str, str]
    replay: bool = False
    group: GroupRunner | None = None
    uses: list[StageUse] = field(default_factory=list)

    def __call__(self, step: Step, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Return the step's artifacts, from the store or computed here and stored."""
        key = step_key(step, self.digests, context.seed)
        if self.group is not None and trains(step):
            stored, passed_on = self.group(step, key, context.report)
        else:
            stored, passed_on = self._here(step, key, inputs, context)
        if not stored.reused:
            course_of(step, self.digests, context.seed).end(self.store.place)
        for row in stored.history[passed_on:] if self.replay else ():
            context.report({k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))
        self.digests.update(stored.digests)
        self.uses.append(
            StageUse(
                stage=step.stage,
                key=key,
                reused=stored.reused,
                seconds=stored.seconds,
                continued=stored.continued,
                history=stored.history,
            )
        )
        return dict(stored.artifacts)

    def _here(
        self, step: Step, key: str, inputs: Mapping[str, Any], context: Context
    ) -> tuple[Stored, int]:
        """Compute a step in this process unless it is stored; return how many reports it made."""
        history: list[dict[str, float]] = []

        def compute(folder: Path) -> Computed:
            report = recording(context.report, history)
            course = course_of(step, self.digests, context.seed)
            continued = course.resume(self.store.place, folder)
            result = run_step(step, inputs, replace(context, report=report, folder=folder))
            course.keep(self.store.place, folder)
            return Computed(result, history, continued)

        stored = self.store.get_or_compute(step.stage, key, step.outputs, compute)
        return stored, 0 if stored.reused else len(stored.history)


def recording(report: Report, history: list[dict[str, float]]) -> Report:
    """Return a report function that also appends to ``history``."""

    def both(metrics: Mapping[str, float], step: int) -> None:
        history.append({"epoch": float(step), **metrics})
        report(metrics, step)

    return both


class Outcome(NamedTuple):
    """What one recipe gave."""

    artifacts: dict[str, Any]
    metrics: dict[str, float]
    uses: list[StageUse]
    seconds: float


def execute(
    experiment: Experiment,
    store: StageStore,
    context: Context,
    *,
    replay: bool = False,
    workers: int = 1,
    gpu: bool = False,
) -> Outcome:
    """Run a recipe's stages through the store, in this process or, to train, in worker groups.

    Args:
        experiment: The recipe.
        store: Stage store.
        context: Device, seed and report function.
        replay: See `StoreExecutor`.
        workers: Workers that train a trunk together; with one everything runs in this process.
        gpu: Give each of several workers a GPU.

    Raises:
        GroupFailedError: A training by several workers failed.
    """
    start = time.perf_counter()
    views = cached_views(experiment.data)
    group = GroupRunner(experiment, store, workers=workers, gpu=gpu) if workers > 1 else None
    executor = StoreExecutor(store, view_digests(views), replay=replay, group=group)
    artifacts = run(experiment, context, views=views, executor=executor)
    metrics: dict[str, float] = artifacts["evaluation"].metrics
    return Outcome(artifacts, metrics, executor.uses, time.perf_counter() - start)


def view_digests(views: Views) -> dict[str, str]:
    """Return the content digest of each view by name."""
    return {name: view.digest for name, view in views._asdict().items() if hasattr(view, "digest")}


def cached_views(data: Data) -> Views:
    """Cut the data once per process and protocol: a reused trial actor cuts it once."""
    return _cached_views(data.model_dump_json())


@lru_cache(maxsize=4)
def _cached_views(document: str) -> Views:
    return build_views(Data.model_validate_json(document))


def pick_device(gpus: float) -> torch.device:
    """Return the device of a trial that was given ``gpus`` GPUs (a share counts).

    Raises:
        ValueError: GPUs were given but torch sees none.
    """
    if gpus <= 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"a trial was given {gpus} GPUs but torch sees none on this host")
    return torch.device("cuda", 0)


def limit_threads(threads: int) -> None:
    """Give torch this many threads; one per trial is best: two such beat one with two."""
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def rebuild(tree: dict[str, Any]) -> Experiment:
    """Return the experiment that was dumped as plain values, the same one while they stay."""
    return _rebuild(json.dumps(tree))


@lru_cache(maxsize=1)
def _rebuild(document: str) -> Experiment:
    return build(Experiment, json.loads(document))


MODEL_ARTIFACTS = ("backbone", "classifier", "scorer", "updated_backbone", "updated_classifier")


def export_model(tree: dict[str, Any], changes: dict[str, Any], storage: str, folder: Path) -> None:
    """Write a recipe's model and evaluation into a folder; stored stages are reused.

    Args:
        tree: The base recipe as plain values.
        changes: Dotted path to value.
        storage: Stage storage.
        folder: Gets ``experiment.yaml`` and one folder per artifact.
    """
    experiment = assign(rebuild(tree), changes)
    outcome = execute(experiment, StageStore(storage), Context(seed=experiment.seed))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    for name in (*MODEL_ARTIFACTS, "evaluation"):
        save_artifact(outcome.artifacts[name], folder / name)
