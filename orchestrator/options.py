"""What a sweep can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.records import Objective
from trainables.errors import ConfigError


class SweepOptions(BaseModel):
    """What ``sweep`` can be told; every field is an option of the command.

    Args:
        experiment: The base recipe.
        sets: ``path=value`` texts that change it.
        study: Search space, a module of ``search_spaces``.
        name: Name of the sweep; an old name goes on with it. Empty: study and time.
        trials: How many recipes are tried in all.
        storage: Path or URI that all hosts reach; stage results and records live there.
        concurrency: Trials at a time; ``None``: as many as the cluster's CPUs and GPUs hold.
        cpus_per_trial: CPUs that a trial occupies; it runs one thread.
        gpus_per_trial: GPUs (or a share of one) that a trial occupies.
        workers: Workers that train a trunk together (Ray Train). With more than one, a trial holds
            almost nothing while it waits; each worker holds a CPU, and a GPU if trials are given
            any.
        scheduler: Who stops poor trials early, or lets good ones train longer (``ladder``).
        objectives: Validation metrics; empty: those of the study.
        finalists: How many recipes are run again on all seeds and tested.
        seeds: Seeds per finalist.
        model: Name of the registered model.
        promote: Register the winner and ask the gates.
        address: Ray cluster to join; ``None``: a running one that Ray knows of, else a local one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Path = Path("experiments/digits.yaml")
    sets: tuple[str, ...] = ()
    study: str = "full"
    name: str = ""
    trials: Annotated[int, Field(ge=1)] = 24
    storage: str = "runs"
    concurrency: Annotated[int, Field(ge=1)] | None = None
    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    workers: Annotated[int, Field(ge=1)] = 1
    scheduler: Literal["none", "asha", "hyperband", "ladder"] = "none"
    objectives: tuple[Objective, ...] = ()
    finalists: Annotated[int, Field(ge=1)] = 2
    seeds: Annotated[int, Field(ge=1)] = 3
    model: str = "longtail"
    promote: bool = True
    address: str | None = None


def parse_objective(text: str) -> Objective:
    """Parse ``metric:mode``.

    Raises:
        ConfigError: The mode is neither ``max`` nor ``min``.

    Example:
        >>> parse_objective("evaluate/accuracy:max")
        Objective(metric='evaluate/accuracy', mode='max')
    """
    metric, _, mode = text.rpartition(":")
    if not metric or mode not in ("max", "min"):
        raise ConfigError(f"--objective is written METRIC:max or METRIC:min; received '{text}'")
    return Objective.model_validate({"metric": metric, "mode": mode})


def local_folder(storage: str) -> Path:
    """Return where records, study and report go: the storage itself if it is a local path.

    Example:
        >>> local_folder("s3://bucket/runs").name
        'runs'
    """
    plain = storage.removeprefix("file://")
    return (Path("runs") if "://" in plain else Path(plain)).resolve()
