"""The console command ``orchestrator``: what a user types, and nothing heavy until it is needed.

This module imports neither torch nor Ray nor MLflow: help texts and configuration errors answer at
once. Each command imports what it uses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from orchestrator.cli_models import predict, promote_app
from orchestrator.cli_options import DIGITS, ExperimentFile, Model, Sets, Storage, examples
from orchestrator.cli_tables import reproduce
from trainables.lazy import defer_imports, load_deferred

if TYPE_CHECKING:
    from trainables.experiment import Experiment


app = typer.Typer(
    name="orchestrator",
    help="Find, compare, promote: image classification with a long tail and an open world.",
    epilog=examples(
        "orchestrator plan --show          how the stages are wired",
        "orchestrator methods losses       what --set classify.loss=NAME can name",
        "orchestrator sweep --trials 24    search, then promote the best",
        "orchestrator report               what past sweeps found",
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: rich's help takes 0.2 s more to import
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog=examples(
        "orchestrator sweep",
        "orchestrator sweep --trials 100 --scheduler asha",
        "orchestrator sweep --study long_tail --scheduler ladder --trials 60",
        "orchestrator sweep --experiment experiments/cifar10_lt.yaml --study long_tail",
        "orchestrator sweep --set classify.training.epochs=5 --concurrency 1",
        "orchestrator sweep --objective evaluate/accuracy/few:max",
        "orchestrator sweep --name monday          (again: goes on where it stopped)",
    )
)
def sweep(  # noqa: PLR0913  (one parameter per option: that is how typer reads them)
    experiment: ExperimentFile = DIGITS,
    sets: Sets = None,
    study: Annotated[
        str, typer.Option("--study", "--space", help="Search space; see `orchestrator spaces`.")
    ] = "full",
    name: Annotated[str, typer.Option(help="Name; that of an old sweep resumes it.")] = "",
    trials: Annotated[int, typer.Option(help="How many recipes to try.")] = 24,
    storage: Storage = "runs",
    concurrency: Annotated[
        int | None, typer.Option(help="Trials at a time; default what the cluster holds.")
    ] = None,
    cpus_per_trial: Annotated[float, typer.Option(help="CPU cores of a trial.")] = 1.0,
    gpus_per_trial: Annotated[float, typer.Option(help="GPUs of a trial; a share is fine.")] = 0.0,
    workers: Annotated[int, typer.Option(help="Workers that train one network together.")] = 1,
    scheduler: Annotated[str, typer.Option(help="none, asha, hyperband or ladder.")] = "none",
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="METRIC:MODE",
            help="Validation metric, max or min; default by the study. Repeat.",
        ),
    ] = None,
    finalists: Annotated[int, typer.Option(help="Recipes retrained and tested at the end.")] = 2,
    seeds: Annotated[int, typer.Option(help="Seeds per finalist.")] = 3,
    model: Model = "longtail",
    promote: Annotated[bool, typer.Option(help="Register the winner and ask the gates.")] = True,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; default a running one, else one here.")
    ] = None,
) -> None:
    """Find the best recipe, retrain finalists, promote the winner.

    Stage results are computed once and reused by every later trial and sweep
    on the same storage. Ctrl-C leaves a sweep that the same --name resumes.
    """
    given = locals()
    from orchestrator.options import SweepOptions, parse_objective

    texts = {"sets": tuple(sets or ()), "objectives": tuple(map(parse_objective, objectives or ()))}
    options = SweepOptions(**{**given, **texts, "experiment": _located(experiment)})
    _recipe(experiment, sets)  # a wrong setting is said before Ray takes seconds to import
    from orchestrator.sweep import run_sweep

    load_deferred(("numpy",))  # Ray's threads must not race for it
    run_sweep(options)


def _located(path: Path) -> Path:
    """Find a file in the working directory, else in the project: `ray submit` starts in a home."""
    project = Path(__file__).parent.parent / path
    return project if not path.exists() and project.exists() else path


def _recipe(path: Path, sets: Sequence[str] | None) -> Experiment:
    from trainables.experiment import load_experiment

    return load_experiment(_located(path), sets or ())


@app.command(
    epilog=examples(
        "orchestrator run",
        "orchestrator run --set classify.loss=ldam --set classify.head=cosine",
        "orchestrator run --experiment experiments/cifar10_lt.yaml --set seed=3",
    )
)
def run(experiment: ExperimentFile = DIGITS, sets: Sets = None, storage: Storage = "runs") -> None:
    """Run one recipe in this process and print its metrics as JSON.

    Stages that were computed before, by any trial on the same storage, are
    reused. The resolved recipe and its metrics go to STORAGE/recipes/.
    For a machine without Ray and MLflow: python -m trainables FILE.
    """
    recipe = _recipe(experiment, sets)
    from orchestrator.single import run_recipe

    load_deferred()
    typer.echo(run_recipe(recipe, storage))


@app.command(
    epilog=examples(
        "orchestrator plan --show",
        "orchestrator plan --set classify.loss=ldam --no-show",
    )
)
def plan(
    experiment: ExperimentFile = DIGITS,
    sets: Sets = None,
    show: Annotated[bool, typer.Option(help="Print the wiring table.")] = True,
) -> None:
    """Check a recipe, show how its stages are wired, run nothing."""
    recipe = _recipe(experiment, sets)
    from orchestrator.views import console, plan_table
    from trainables import pipeline

    steps = pipeline.plan(recipe)
    out = console()
    if show:
        out.print(plan_table(pipeline.describe(steps)))
    out.print(f"{recipe.name}: {len(steps)} stages, recipe {recipe.digest()[:12]}")


@app.command(epilog=examples("orchestrator methods", "orchestrator methods losses"))
def methods(
    kind: Annotated[str | None, typer.Argument(help="One kind, in detail.")] = None,
) -> None:
    """List what a recipe can name: settings, ranges, sources."""
    from orchestrator.catalog import rows

    found = rows(kind)
    from orchestrator.views import console, methods_details, methods_table

    console().print(methods_details(found) if kind else methods_table(found))


@app.command(epilog=examples("orchestrator spaces", "orchestrator sweep --study long_tail"))
def spaces() -> None:
    """List the search spaces: what a sweep may vary."""
    import search_spaces
    from orchestrator.views import console, space_text

    for name in search_spaces.names():
        console().print(space_text(name, search_spaces.describe(name)))


@app.command(
    epilog=examples(
        "orchestrator report           list the sweeps",
        "orchestrator report monday    write the page of one sweep again",
    )
)
def report(
    name: Annotated[str | None, typer.Argument(help="Name of a sweep.")] = None,
    storage: Storage = "runs",
) -> None:
    """List sweeps, or write the report of one.

    Prints where the report is: a single HTML file that needs no network.
    """
    from orchestrator.options import local_folder
    from orchestrator.records import SweepRecord
    from trainables.errors import ConfigError, did_you_mean

    found_at = local_folder(storage).glob("sweeps/*/sweep.json")
    folders = {path.parent.name: path.parent for path in found_at}
    if name is None:
        from orchestrator.views import console, sweeps_table

        found = sorted((SweepRecord.load(f) for f in folders.values()), key=lambda r: r.started)
        console().print(sweeps_table(found))
        return
    if name not in folders:
        known = ", ".join(sorted(folders)) or "none"
        raise ConfigError(
            f"no sweep '{name}' in {storage}; known: {known}{did_you_mean(name, folders)}"
        )
    from orchestrator.report import write_report

    typer.echo(write_report(SweepRecord.load(folders[name]), folders[name]))


@app.command()
def ui(
    storage: Storage = "runs",
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Show all runs in MLflow's user interface.

    It is reachable from this machine only (127.0.0.1).
    """
    import os

    from orchestrator.mlflow_client import tracking_uri
    from orchestrator.options import local_folder

    address = tracking_uri(None, local_folder(storage))
    if address.startswith(("http://", "https://")):
        typer.echo(f"runs are recorded by the server at {address}: open it in a browser")
        return
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [*server, "--backend-store-uri", address])


@app.command()
def version() -> None:
    """Print the version of this and of what it stands on."""
    from importlib.metadata import version as of

    for name in ("longtail-orchestrator", "torch", "ray", "optuna", "mlflow"):
        typer.echo(f"{name} {of(name)}")


app.command(
    epilog=examples(
        "orchestrator predict cat.png dog.jpg",
        "orchestrator predict photos/*.jpg --version previous",
        "orchestrator predict cat.png --json",
    )
)(predict)
app.command(
    epilog=examples(
        "orchestrator reproduce                  list the tables",
        "orchestrator reproduce digits_lt        seconds, no download",
        "orchestrator reproduce cifar10_lt --factors 100 --seeds 0",
        "orchestrator reproduce cifar10_lt --at-once 4    on Ray, four runs at a time",
    )
)(reproduce)
app.add_typer(promote_app, name="promote")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what a user got wrong is one line on standard error, exit status 2.

    Args:
        arguments: Words after the program's name; default those of this process.
    """
    defer_imports()
    try:
        app(args=None if arguments is None else list(arguments))
    except ValueError as error:
        _explain(error)


def _explain(error: ValueError) -> NoReturn:
    """Print a configuration error as one line and leave; anything else is a fault of ours."""
    from pydantic import ValidationError

    from trainables.errors import ConfigError

    if isinstance(error, ConfigError):
        text = str(error)
    elif isinstance(error, ValidationError) and error.title == "SweepOptions":
        first = error.errors()[0]
        text = f"--{'.'.join(map(str, first['loc']))}: {first['msg']}; received {first['input']!r}"
    else:
        raise error
    typer.echo(f"error: {text}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
