"""Run a table of published results through the stage store and write its page.

Rows that share a trunk train it once; a run that was interrupted goes on where it stopped; two
processes (or two machines) on one storage share the work. Who computes is a `Runner`: this process,
without Ray (`one_by_one`), or tasks on a cluster (`orchestrator.tables.table_tasks`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from orchestrator.environment import git_commit
from orchestrator.execution.execute import execute
from orchestrator.execution.progress import ProgressMeter, told
from orchestrator.options import local_folder
from orchestrator.store.stage_store import StageStore
from orchestrator.tables.results_page import render
from orchestrator.tables.schema import Recipe, Table
from orchestrator.tables.table_order import StartOrder
from orchestrator.tables.table_record import CellRecord, TableRecord
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.pipeline import plan

Runner = Callable[[Sequence[Recipe], str], Iterator[CellRecord]]


def reproduce(
    table: Table,
    runs: Sequence[Recipe],
    storage: str,
    *,
    whole: Sequence[Recipe] = (),
    pages: Sequence[Path] = (),
    say: Callable[[str], None] = print,
    runner: Runner | None = None,
) -> TableRecord:
    """Run recipes of a table; record and page are written after each, by this process.

    Args:
        table: The table.
        runs: Its recipes, from `orchestrator.tables.schema.recipes`.
        storage: Storage of stage results; record and page go to ``<storage>/tables/<name>/``.
        whole: Recipes of the table that are not run now: what an earlier run, or another process,
            recorded for exactly these stays on the page.
        pages: Further places for the page.
        say: Receives a line per run.
        runner: Runs recipes on a storage and yields what each gave, in any order; default
            `one_by_one`.

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
    record = TableRecord(table=table.name, machine=describe_software())
    mine: list[CellRecord] = []
    digests = {_place(run): run.experiment.digest() for run in (*whole, *runs)}
    for number, ran in enumerate((runner or one_by_one)(runs, storage), 1):
        stamp = {"recipe": digests[_place(ran)], "commit": record.machine["commit"]}
        cell = ran.model_copy(update=stamp)
        mine.append(cell)
        record.machine["device"] = "; ".join(sorted({cell.device for cell in mine}))
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


def one_by_one(runs: Sequence[Recipe], storage: str) -> Iterator[CellRecord]:
    """Run recipes in this process, on a GPU if there is one, without Ray."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store, order = StageStore(storage), StartOrder(runs)
    while (position := order.next()) is not None:
        meter = ProgressMeter(runs[position].experiment, label(runs[position]))
        with told(meter):
            cell = run_cell(runs[position], store, device, meter)
        yield cell
        order.finished(position)


def label(run: Recipe) -> str:
    """Return what progress calls a run of a table."""
    return f"{run.row}, {run.factor}, seed {run.seed}"


def run_cell(
    run: Recipe, store: StageStore, device: torch.device, meter: ProgressMeter
) -> CellRecord:
    """Run one recipe; a training that fails is a result of its row, not the end of the table.

    Args:
        run: The recipe and its place in the table.
        store: Store of the stage results.
        device: Device of the computations.
        meter: Is told how far the run is.
    """
    cell = CellRecord(row=run.row, factor=run.factor, seed=run.seed, device=describe(device))
    context = Context(
        device=device, seed=run.experiment.seed, report=meter.report, progress=meter.count
    )
    try:
        outcome = execute(run.experiment, store, context, begun=meter.begin)
    except ArithmeticError as error:  # a loss or weights that are not finite
        return cell.model_copy(update={"error": " ".join(str(error).split())})
    return cell.model_copy(
        update={
            "metrics": outcome.metrics,
            "seconds": outcome.seconds,
            "stages": [use.model_copy(update={"history": []}) for use in outcome.uses],
        }
    )


def describe_software() -> dict[str, str]:
    """Return with which code a table was run."""
    return {
        "commit": git_commit(digits=12),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def describe(device: torch.device) -> str:
    """Return the name of a device, for a CPU with its threads: sums depend on them."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}), {torch.get_num_threads()} thread(s)"


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
