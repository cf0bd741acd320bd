"""The command ``reproduce``: tables of published results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Sets, Storage
from orchestrator.execution.ctrl_c import INTERRUPTED, keep_ctrl_c
from trainables.lazy import load_deferred


def reproduce(
    table: Annotated[str | None, typer.Argument(help="Name or file; none lists them.")] = None,
    rows: Annotated[str, typer.Option(help="Only these rows, by name, with commas.")] = "",
    factors: Annotated[str, typer.Option(help="Only these factors, with commas.")] = "",
    seeds: Annotated[str, typer.Option(help="Other seeds than the table's, with commas.")] = "",
    page: Annotated[Path | None, typer.Option(help="Write the page here too.")] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time, on Ray; default one, without it."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to run on; auto: the one of this machine.")
    ] = None,
    sets: Sets = None,
    storage: Storage = "runs",
) -> None:
    """Run a table of published results and put ours beside them.

    Rows that share a trunk train it once. An interrupted table goes on where it
    stopped. The page is STORAGE/tables/NAME/results.md. Runs in this process, on
    a GPU if there is one, without Ray; with --concurrency or --address on a cluster.
    """
    from orchestrator.store.filesystem import check_storage
    from orchestrator.tables import schema as tables
    from trainables.settings import parse_seeds

    if table is None:
        for name in tables.names():
            found, _ = tables.load_table(name)
            typer.echo(f"{name:24} {found.title} ({len(found.rows)} rows)")
        return
    chosen, folder = tables.load_table(table)
    wanted = tables.Wanted(_words(rows), _words(factors), parse_seeds(seeds))
    runs = tables.recipes(chosen, folder, sets or (), wanted)
    check_storage(storage)
    every_seed = tuple(dict.fromkeys((*chosen.seeds, *wanted.seeds)))
    whole = tables.recipes(chosen, folder, sets or (), tables.Wanted(seeds=every_seed))
    load_deferred()
    from orchestrator.options import local_folder
    from orchestrator.tables.reproduce import Runner, one_by_one
    from orchestrator.tables.reproduce import reproduce as run_table

    runner: Runner = one_by_one
    if address is not None or (concurrency or 1) > 1:
        from orchestrator.tables.table_tasks import ClusterRunner

        runner = ClusterRunner(concurrency, address, typer.echo)
    pages = [] if page is None else [page]
    try:
        with keep_ctrl_c():
            record = run_table(
                chosen, runs, storage, whole=whole, pages=pages, say=typer.echo, runner=runner
            )
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on", err=True)
        sys.exit(INTERRUPTED)
    typer.echo(local_folder(storage) / "tables" / chosen.name / "results.md")
    if any(cell.error for cell in record.cells):
        sys.exit(1)


def _words(text: str) -> tuple[str, ...]:
    """Split at commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
