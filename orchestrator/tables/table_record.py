"""Record of a table's runs, as one JSON document."""

from __future__ import annotations

from pydantic import Field

from orchestrator.records import Metrics, Record, StageUse


class CellRecord(Record):
    """One run: its row, factor and seed, the digest of its recipe, and its result."""

    row: str
    factor: str
    seed: int
    recipe: str = ""
    commit: str = ""
    device: str = ""
    metrics: Metrics = Field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    stages: list[StageUse] = Field(default_factory=list)


class TableRecord(Record):
    """Record of all runs of a table."""

    table: str
    machine: dict[str, str]
    cells: list[CellRecord] = Field(default_factory=list)
