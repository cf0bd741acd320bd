"""One trial: a recipe through the stage store, reported to Ray Tune. Runs inside a reused actor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.execute import execute, limit_threads, pick_device, rebuild
from orchestrator.packed import pack
from orchestrator.store import StageStore
from trainables.context import Context
from trainables.settings import assign


class TrialSpec(BaseModel):
    """What all trials of a sweep have in common; plain values, so that it travels cheaply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: dict[str, Any]
    storage: str
    objectives: tuple[str, ...]
    report_epochs: bool = False  # only a scheduler that stops trials needs them
    gpus: float = 0.0
    workers: int = 1  # that train a trunk together; a GPU is then theirs and not the trial's
    threads: int = 1


def run_trial(config: dict[str, Any], *, spec: TrialSpec) -> None:
    """Run one suggested recipe and report its metrics.

    Args:
        config: ``{"trial_number": int, "params": {dotted name: value}}`` from the searcher, and
            ``"rung"`` with what a ladder changes besides.
        spec: The sweep's common part.
    """
    from ray import tune

    limit_threads(spec.threads)
    changes = {**config["params"], **config.get("rung", {})}
    experiment = assign(rebuild(spec.experiment), changes)
    epochs = 0

    def report(metrics: Mapping[str, float], epoch: int) -> None:
        nonlocal epochs
        epochs += 1
        if spec.report_epochs:
            tune.report({**metrics, "epoch": epochs})

    context = Context(
        device=pick_device(spec.gpus if spec.workers == 1 else 0.0),
        seed=experiment.seed,
        report=report,
    )
    outcome = execute(
        experiment,
        StageStore(spec.storage),
        context,
        replay=spec.report_epochs,
        workers=spec.workers,
        gpu=spec.gpus > 0,
    )
    missing = [name for name in spec.objectives if name not in outcome.metrics]
    final = {**outcome.metrics, **dict.fromkeys(missing, math.nan)}
    tune.report(
        {
            **{name: final[name] for name in spec.objectives},
            "epoch": epochs + 1,
            "completed": 1.0,
            "done": True,  # or Tune asks once more, to hear that there is nothing else
            "seconds": outcome.seconds,
            "stage_keys": [use.key for use in outcome.uses],
            **pack({**final, "stage_uses": [use.model_dump() for use in outcome.uses]}),
        }
    )
