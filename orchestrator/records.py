"""What a sweep leaves behind, as one JSON document that the report and the tests read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Scalar = str | int | float | bool | None


class Record(BaseModel):
    """Base of the records: unknown keys are errors, so that a reader never guesses."""

    model_config = ConfigDict(extra="forbid")


class Objective(Record):
    """A validation metric to optimise."""

    metric: str
    mode: Literal["max", "min"]


class StageUse(Record):
    """One stage result that a trial asked for."""

    stage: str
    key: str
    reused: bool
    seconds: float  # computing time, also when reused: what the reuse saved
    continued: int = 0  # epochs taken over from a shorter training
    run_id: str | None = None
    history: list[dict[str, float]] = []  # one entry per report; the key "epoch" numbers them


class TrialRecord(Record):
    """One trial: what was tried, what came out."""

    trial_id: str
    number: int
    state: Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
    params: dict[str, Scalar]
    rung: dict[str, Scalar] = {}  # how a ladder shortened the recipe; empty: not at all
    metrics: dict[str, float] = {}
    seconds: float = 0.0
    error: str | None = None
    run_id: str | None = None
    stages: list[StageUse] = []

    @property
    def changes(self) -> dict[str, Scalar]:
        """What was changed in the base recipe to run it."""
        return {**self.params, **self.rung}


class Interval(Record):
    """Mean over seeds with a 95 % t-interval; one seed has none, its ends are the value."""

    mean: float
    low: float
    high: float
    values: list[float]

    def bracket(self) -> str:
        """Return the interval as text.

        Example:
            >>> Interval(mean=0.5, low=0.25, high=0.75, values=[0.4, 0.6]).bracket()
            '[0.2500, 0.7500]'
            >>> Interval(mean=0.5, low=0.5, high=0.5, values=[0.5]).bracket()
            '(one seed)'
        """
        return "(one seed)" if len(self.values) < 2 else f"[{self.low:.4f}, {self.high:.4f}]"


class FinalistRecord(Record):
    """A recipe that was re-run on several seeds and evaluated once on the test views."""

    trial_id: str
    params: dict[str, Scalar]
    seeds: list[int]
    metrics: dict[str, Interval]
    run_ids: list[str] = []
    arrays: str | None = (
        None  # folder of the first seed's evaluation artifact, below the sweep folder
    )


class GateRecord(Record):
    """One gate's word on a challenger."""

    name: str
    passed: bool
    reason: str


class PromotionRecord(Record):
    """What the registry did with the winner."""

    model: str
    version: str | None
    promoted: bool
    gates: list[GateRecord]


class SweepRecord(Record):
    """A whole sweep."""

    name: str
    study: str
    started: str  # ISO 8601, UTC
    seconds: float = 0.0
    experiment: dict[str, Any]
    objectives: list[Objective]
    environment: dict[str, str]  # git, python, torch, ray, optuna, mlflow, host, cpus, gpus
    data: dict[str, Any] = {}  # digest, classes, counts per view
    trials: list[TrialRecord] = []
    finalists: list[FinalistRecord] = []
    promotion: PromotionRecord | None = None
    tracking_uri: str = ""
    run_id: str | None = None

    def save(self, folder: Path) -> Path:
        """Write ``sweep.json`` atomically and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "sweep.json"
        draft = target.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        draft.replace(target)
        return target

    @classmethod
    def load(cls, folder: Path) -> SweepRecord:
        """Read ``sweep.json`` from a sweep's folder.

        Raises:
            FileNotFoundError: There is none.
        """
        return cls.model_validate_json((folder / "sweep.json").read_text(encoding="utf-8"))
