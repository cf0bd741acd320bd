"""Trainable of Ray Tune: runs one recipe through the stage store, inside a reused actor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.execution.devices import pick_device, work_in
from orchestrator.execution.execute import rebuild, validate
from orchestrator.execution.progress import ProgressMeter, published
from orchestrator.execution.store_executor import check_views
from orchestrator.store.stage_store import StageStore
from trainables.context import Context
from trainables.settings import assign
from trainables.threads import choose_threads

READINGS = {"pretrain.pooling", "pretrain.layer"}  # of one pass over the images
ENCODED = "encoded_result"  # key of a trial's metrics in a Tune result


class TrialSpec(BaseModel):
    """Settings common to all trials of a sweep, as plain values that serialize cheaply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: dict[str, Any]
    sweep: str  # name of the sweep, for whom progress is published
    storage: str
    objectives: tuple[str, ...]
    report_epochs: bool = False  # only a scheduler that stops trials needs reports per epoch
    gpus: float = 0.0
    workers: int = 1  # workers per training; several workers hold the GPUs instead of the trial
    threads: int = 1
    views_digest: str = ""  # of the images that the sweep began with
    origin: str = ""  # working folder of the driver, for relative paths in the recipe


def run_trial(config: dict[str, Any], *, spec: TrialSpec) -> None:
    """Run one suggested recipe and report its metrics.

    Args:
        config: ``{"trial_number": int, "params": {dotted name: value}}`` from the searcher, with
            the additional changes of a ladder's rung under ``"rung"``.
        spec: Settings common to all trials of the sweep.
    """
    from ray import tune

    choose_threads(spec.threads)
    work_in(spec.origin)
    changes = {**config["params"], **config.get("rung", {})}
    experiment = assign(rebuild(spec.experiment), changes)
    epochs = 0

    meter = ProgressMeter(experiment, f"trial {config['trial_number']}")

    def report(metrics: Mapping[str, float], epoch: int) -> None:
        nonlocal epochs
        epochs += 1
        meter.report(metrics, epoch)
        if spec.report_epochs:
            tune.report({**metrics, "epoch": epochs})

    if spec.views_digest and experiment.data == rebuild(spec.experiment).data:
        check_views(experiment.data, spec.views_digest)
    context = Context(
        device=pick_device(spec.gpus if spec.workers == 1 else 0.0),
        seed=experiment.seed,
        report=report,
        progress=meter.count,
    )
    store = StageStore(spec.storage)
    store.features.readings = not READINGS.isdisjoint(config["params"])
    with published(meter, spec.sweep):
        outcome, _ = validate(
            experiment,
            store,
            context,
            resend_reports=spec.report_epochs,
            workers=spec.workers,
            gpu=spec.gpus > 0,
            begun=meter.begin,
        )
    missing = [name for name in spec.objectives if name not in outcome.metrics]
    final = {**outcome.metrics, **dict.fromkeys(missing, math.nan)}
    tune.report(
        {
            **{name: final[name] for name in spec.objectives},
            "epoch": epochs + 1,
            "completed": 1.0,
            "done": True,  # without it Tune requests another result
            "seconds": outcome.seconds,
            "stage_keys": [use.key for use in outcome.uses],
            **encode_result({**final, "stage_uses": [use.model_dump() for use in outcome.uses]}),
        }
    )


def encode_result(values: Mapping[str, Any]) -> dict[str, str]:
    """Return JSON-like values as one text entry of a Tune result.

    Tune copies, averages and stores every number of a result, which takes 0.1 ms each, and a recipe
    has a hundred metrics.

    Example:
        >>> decode_result({"loss": 0.5, **encode_result({"evaluate/accuracy": 0.9})})
        {'loss': 0.5, 'evaluate/accuracy': 0.9}
    """
    return {ENCODED: json.dumps(values)}


def decode_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a Tune result in which the encoded values are decoded, if there are any."""
    values = {name: value for name, value in result.items() if name != ENCODED}
    values.update(json.loads(result.get(ENCODED, "{}")))
    return values
