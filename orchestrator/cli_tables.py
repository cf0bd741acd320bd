"""The command ``reproduce``: tables of published results."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli_options import Sets, Storage
from trainables.lazy import load_deferred

INTERRUPTED = 130  # exit status that shells expect after Ctrl-C


def reproduce(
    table: Annotated[str | None, typer.Argument(help="Name or file; none lists them.")] = None,
    rows: Annotated[str, typer.Option(help="Only these rows, by name, with commas.")] = "",
    factors: Annotated[str, typer.Option(help="Only these factors, with commas.")] = "",
    seeds: Annotated[str, typer.Option(help="Other seeds than the table's, with commas.")] = "",
    page: Annotated[Path | None, typer.Option(help="Write the page here too.")] = None,
    at_once: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time, on Ray; default one, without it."),
    ] = None,
    fuse: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds trained together; default all on a GPU, 1 on a CPU."),
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
    a GPU if there is one, without Ray; with --at-once or --address on a cluster.
    """
    from orchestrator import tables

    if table is None:
        for name in tables.names():
            found, _ = tables.load_table(name)
            typer.echo(f"{name:24} {found.title} ({len(found.rows)} rows)")
        return
    chosen, folder = tables.load_table(table)
    wanted = tables.Wanted(_words(rows), _words(factors), _numbers(seeds))
    runs = tables.recipes(chosen, folder, sets or (), wanted)
    every_seed = tuple(dict.fromkeys((*chosen.seeds, *wanted.seeds)))
    whole = tables.recipes(chosen, folder, sets or (), tables.Wanted(seeds=every_seed))
    load_deferred()
    from orchestrator.options import local_folder
    from orchestrator.reproduce import Runner, one_by_one
    from orchestrator.reproduce import reproduce as run_table

    runner: Runner = partial(one_by_one, fuse=fuse)
    if address is not None or (at_once or 1) > 1:
        from orchestrator.table_tasks import ClusterRunner

        runner = ClusterRunner(at_once, address, typer.echo, fuse)
    pages = [] if page is None else [page]
    try:
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


def _numbers(text: str) -> tuple[int, ...]:
    """Read whole numbers >= 0.

    Raises:
        ConfigError: A word is none.
    """
    from trainables.errors import ConfigError

    words = _words(text)
    if not all(word.isdigit() for word in words):
        raise ConfigError(
            f"--seeds: allowed: whole numbers with commas, e.g. 0,1,2; received {text}"
        )
    return tuple(int(word) for word in words)
