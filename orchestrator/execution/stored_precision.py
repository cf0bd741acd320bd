"""What ``precision: auto`` stands for, measured once per storage and kind of machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from orchestrator.store.manifest import Computed
from orchestrator.store.stage_store import StageStore
from trainables.context import Context
from trainables.experiment import Experiment
from trainables.keys import code_digest
from trainables.models.precision import ComputeFormat, Race, compute_format, format_names
from trainables.pipeline import PRECISION, measured
from trainables.settings import assign, canonical_json
from trainables.threads import computed_with

STAGE = "precision"  # folder of the choices in the store
MACHINE = ("device", "gpu", "processor", "threads", "cpu_kernels")


class PrecisionChoice(NamedTuple):
    """The settings ``precision`` and ``layout`` that a network trains in."""

    precision: str
    layout: str


def stored_choice(store: StageStore, race: Race, context: Context) -> ComputeFormat:
    """Return what the storage holds for this race on this kind of machine, or measure it now."""
    machine = computed_with(context.device)

    def compute(folder: Path) -> Computed:
        choice = PrecisionChoice(*format_names(measured(race, context)))
        return Computed({"choice": choice}, [], computed_with=machine)

    key, outputs = race_key(race, machine), {"choice": PrecisionChoice}
    choice = store.get_or_compute(STAGE, key, outputs, compute).artifacts["choice"]
    return compute_format(choice.precision, choice.layout)


def race_key(race: Race, machine: Mapping[str, str]) -> str:
    """Return the key of a choice, from the race, the kind of machine, torch, and the code.

    Args:
        race: What is measured.
        machine: See `trainables.threads.computed_with`.
    """
    real = {
        "race": race._asdict(),
        "machine": {name: machine[name] for name in MACHINE if name in machine},
        "torch": ".".join(machine["torch"].split(".")[:2]),
        "code": code_digest(("trainables.models.precision",)),
    }
    return hashlib.sha256(canonical_json(real).encode()).hexdigest()


def for_gpu_groups(experiment: Experiment) -> Experiment:
    """Return a recipe for worker groups on GPUs: ``auto`` is bfloat16 and channels-last there.

    The key of a training is computed by the trial that waits for the group, which has no GPU to
    measure on. A head on stored features trains in float32 everywhere.

    Example:
        >>> for_gpu_groups(Experiment()).classify.training.precision
        'bfloat16'
    """
    rule = dict(zip(PRECISION, ("bfloat16", "channels_last"), strict=True))
    changes = {
        f"{stage}.training.{name}": value
        for stage in ("pretrain", *(["classify"] if experiment.trunk_tuner().moves else []))
        for name, value in rule.items()
        if getattr(getattr(experiment, stage).training, name) == "auto"
    }
    return assign(experiment, changes)
