"""Run a table of published results through the stage store, without Ray, and write its page.

Rows that share a trunk train it once; a run that was interrupted goes on where it stopped; two
processes (or two machines) on one storage share the work.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field

from orchestrator.environment import git_commit
from orchestrator.execute import execute
from orchestrator.options import local_folder
from orchestrator.records import Record, StageUse
from orchestrator.results_page import render
from orchestrator.store import StageStore
from orchestrator.tables import Recipe, Table
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.pipeline import plan


class CellRecord(Record):
    """One run: where it stands in the table, its recipe's digest, and what came out of it."""

    row: str
    factor: str
    seed: int
    recipe: str = ""
    commit: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    stages: list[StageUse] = Field(default_factory=list)


class TableRecord(Record):
    """All runs of a table so far."""

    table: str
    machine: dict[str, str]
    cells: list[CellRecord] = Field(default_factory=list)


def reproduce(
    table: Table,
    runs: Sequence[Recipe],
    storage: str,
    *,
    whole: Sequence[Recipe] = (),
    pages: Sequence[Path] = (),
    say: Callable[[str], None] = print,
) -> TableRecord:
    """Run recipes of a table one after the other; record and page are written after each.

    Args:
        table: The table.
        runs: Its recipes, from `orchestrator.tables.recipes`.
        storage: Storage of stage results; record and page go to ``<storage>/tables/<name>/``.
        whole: Recipes of the table that are not run now: what an earlier run, or another process,
            recorded for exactly these stays on the page.
        pages: Further places for the page.
        say: Receives a line per run.

    Raises:
        ConfigError: A recipe cannot run; nothing was run then.
    """
    for run in runs:
        try:
            plan(run.experiment)
        except ConfigError as error:
            raise ConfigError(f"row '{run.row}': {error}") from None
    folder = local_folder(storage) / "tables" / table.name
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = TableRecord(table=table.name, machine=describe_machine(device))
    store = StageStore(storage)
    mine: list[CellRecord] = []
    digests = {_place(run): run.experiment.digest() for run in (*whole, *runs)}
    for number, run in enumerate(runs, 1):
        cell = _run(run, store, device).model_copy(
            update={"recipe": digests[_place(run)], "commit": record.machine["commit"]}
        )
        mine.append(cell)
        record.cells = _with_others(mine, folder / "results.json", digests)
        _write(folder / "results.json", record.model_dump_json(indent=1))
        page = render(table, record)
        for place in (folder / "results.md", *pages):
            _write(place, page)
        say(f"{number}/{len(runs)}  {_line(cell, table.metric)}")
    return record


def _place(cell: Recipe | CellRecord) -> tuple[str, str, int]:
    """Return where a run stands in its table."""
    return cell.row, cell.factor, cell.seed


def _with_others(
    mine: Sequence[CellRecord], file: Path, digests: Mapping[tuple[str, str, int], str]
) -> list[CellRecord]:
    """Add what is recorded for other places of the table, by the recipe that is there today."""
    if not file.is_file():
        return list(mine)
    taken = {_place(cell) for cell in mine}
    stored = TableRecord.model_validate_json(file.read_text(encoding="utf-8")).cells
    others = [c for c in stored if _place(c) not in taken and digests.get(_place(c)) == c.recipe]
    return [*mine, *others]


def _run(run: Recipe, store: StageStore, device: torch.device) -> CellRecord:
    """Run one recipe; a training that fails is a result of its row, not the end of the table."""
    place = {"row": run.row, "factor": run.factor, "seed": run.seed}
    context = Context(device=device, seed=run.experiment.seed)
    try:
        outcome = execute(run.experiment, store, context)
    except ArithmeticError as error:  # a loss or weights that are not finite
        return CellRecord(**place, error=" ".join(str(error).split()))
    return CellRecord(
        **place,
        metrics=outcome.metrics,
        seconds=outcome.seconds,
        stages=[use.model_copy(update={"history": []}) for use in outcome.uses],
    )


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return with what a table was run."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "commit": git_commit()[:12],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": gpu or f"CPU ({platform.machine()}), {torch.get_num_threads()} thread(s)",
    }


def _line(cell: CellRecord, metric: str) -> str:
    """Return what a run gave, as one line."""
    where = f"{cell.row}  {cell.factor}  seed {cell.seed}"
    if cell.error is not None:
        return f"{where}  FAILED: {cell.error}"
    computed = [use.stage for use in cell.stages if not use.reused]
    work = f"computed {', '.join(computed)}" if computed else "all stored before"
    value = 100 * cell.metrics[metric] if metric in cell.metrics else float("nan")
    return f"{where}  {value:.2f} %  {cell.seconds:.0f} s  ({work})"


def _write(place: Path, text: str) -> None:
    """Write a file whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(place)
