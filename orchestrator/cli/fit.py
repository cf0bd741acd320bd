"""The command ``fit``: from a folder of photos to a champion that knows all of its classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Storage, given_model_name, not_empty
from orchestrator.execution.ctrl_c import INTERRUPTED

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions

# what may not be empty: as a path it would be the working folder, else an option left out
Photos = Annotated[
    str, typer.Argument(help="Folder with one folder of images per class.", callback=not_empty)
]
Backbone = Annotated[
    str,
    typer.Option(
        help="A name of timm, a folder or file of weights, NAME=FILE, or none: train one.",
        callback=not_empty,
    ),
]
Time = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="Begin nothing new after it, and train no longer: 20m.",
        callback=not_empty,
    ),
]
Groups = Annotated[
    str,
    typer.Option(
        help="Images that belong together: a table of path and group, or a pattern.",
        callback=not_empty,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(help="Table of path and label that corrects labels.", callback=not_empty),
]
Model = Annotated[
    str,
    typer.Option(
        help="Name of the registered model; default the folder's.", callback=given_model_name
    ),
]


def fit(  # noqa: PLR0913  (one parameter per option: that is how typer reads them)
    photos: Photos,
    backbone: Backbone = "",
    deeper: Annotated[
        bool,
        typer.Option("--deeper", help="Fine-tune the backbone too; it serves if it is better."),
    ] = False,
    metric: Annotated[
        str, typer.Option(help="What the winner is chosen by: balanced, accuracy or worst-class.")
    ] = "balanced",
    expect: Annotated[
        str,
        typer.Option(help="How often classes come: natural, balanced, or a file of class: number."),
    ] = "natural",
    false_alarm: Annotated[
        float, typer.Option(help="Share of photos of known classes that are called unknown.")
    ] = 0.05,
    time: Time = "",
    groups: Groups = "",
    labels: Labels = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the photos and what would run; run nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, all else on stderr.")
    ] = False,
    model: Model = "",
    storage: Storage = "runs",
) -> None:
    """Fit a model to a folder of photos, judge it, make it champion.

    Ctrl-C leaves what the same command goes on with.
    """
    from orchestrator.fitting.fit_options import FitOptions, parse_seconds

    options = FitOptions(
        photos=Path(photos),
        backbone=backbone,
        deeper=deeper,
        seconds=parse_seconds(time) if time else None,
        metric=metric,
        expect=expect,
        false_alarm=false_alarm,
        groups=groups,
        labels=Path(labels) if labels else None,
        model=model,
        storage=storage,
    )
    _run(options, dry_run=dry_run, as_json=as_json)


def _run(options: FitOptions, *, dry_run: bool, as_json: bool) -> None:
    """Fit, or show what would run; Ctrl-C is one line and status 130."""
    from trainables.threads import choose_threads, usable_cores

    choose_threads(usable_cores())
    from orchestrator.fitting.figures.closing_lines import answers
    from orchestrator.fitting.progress_lines import Lines
    from orchestrator.fitting.start import fit_photos, show_dry_run

    lines = Lines(sys.stderr if as_json else sys.stdout)
    try:
        if dry_run:
            show_dry_run(options, lines)
            return
        record = fit_photos(options, lines)
    except KeyboardInterrupt:
        lines.plain("interrupted: the same command goes on where it was")
        sys.exit(INTERRUPTED)
    if as_json:
        typer.echo(record.model_dump_json(indent=1))
    if not answers(record):
        sys.exit(1)
