"""The console command ``orchestrator``: what a user types, and nothing heavy until it is needed.

This module imports neither torch nor Ray nor MLflow: help texts and configuration errors answer at
once. Each command imports what it uses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from os.path import exists  # unlike Path.exists, it takes names that no file can have
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.errors import fail
from orchestrator.cli.fit import fit
from orchestrator.cli.models import predict, promote_app
from orchestrator.cli.options import (
    DIGITS,
    ExperimentFile,
    Gates,
    Model,
    Sets,
    Storage,
    examples,
    not_empty,
    with_former,
)
from orchestrator.cli.tables import reproduce
from orchestrator.execution.ctrl_c import INTERRUPTED, keep_ctrl_c
from trainables.lazy import defer_imports, load_deferred
from trainables.threads import choose_threads

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
    cls=with_former(
        {"--study": "--space", "--workers": "--train-workers", "--seeds": "--num-seeds"}
    ),
    epilog=examples(
        "orchestrator sweep",
        "orchestrator sweep --trials 100 --scheduler asha",
        "orchestrator sweep --space long_tail --scheduler ladder --trials 60",
        "orchestrator sweep --space open_world --sampler gp",
        "orchestrator sweep --experiment experiments/cifar10_lt.yaml --space long_tail",
        "orchestrator sweep --set classify.training.epochs=5 --concurrency 1",
        "orchestrator sweep --objective evaluate/accuracy/few:max",
        "orchestrator sweep --name monday          (again: goes on where it stopped)",
    ),
)
def sweep(  # noqa: PLR0913  (one parameter per option: that is how typer reads them)
    experiment: ExperimentFile = DIGITS,
    sets: Sets = None,
    space: Annotated[str, typer.Option(help="Search space; see `orchestrator spaces`.")] = "full",
    name: Annotated[
        str, typer.Option(help="Name; that of an old sweep resumes it.", callback=not_empty)
    ] = "",
    trials: Annotated[int, typer.Option(help="How many recipes to try.")] = 24,
    storage: Storage = "runs",
    concurrency: Annotated[
        int | None, typer.Option(help="Trials at a time; default what the cluster holds.")
    ] = None,
    cpus_per_trial: Annotated[float, typer.Option(help="CPU cores of a trial.")] = 1.0,
    gpus_per_trial: Annotated[float, typer.Option(help="GPUs of a trial; a share is fine.")] = 0.0,
    train_workers: Annotated[
        int, typer.Option(help="Workers that train one network together.")
    ] = 1,
    scheduler: Annotated[str, typer.Option(help="none, asha, hyperband or ladder.")] = "none",
    sampler: Annotated[
        str,
        typer.Option(help="tpe, random, gp, cmaes, nsga2, qmc, or package.module:Class."),
    ] = "tpe",
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="METRIC:MODE",
            help="Validation metric, max or min; default by the space. Repeat.",
        ),
    ] = None,
    finalists: Annotated[int, typer.Option(help="Recipes retrained and tested at the end.")] = 2,
    soup: Annotated[
        bool, typer.Option("--soup", help="Averages of the best trials are finalists too.")
    ] = False,
    num_seeds: Annotated[int, typer.Option(help="Seeds per finalist.")] = 3,
    data_seeds: Annotated[
        bool, typer.Option("--data-seeds", help="Finalists' seeds also cut the data anew.")
    ] = False,
    model: Model = "",
    promote: Annotated[bool, typer.Option(help="Register the winner and ask the gates.")] = True,
    gates: Gates = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster; default a running one, else one here.", callback=not_empty),
    ] = None,
) -> None:
    """Find the best recipe, retrain finalists, promote the winner.

    Stage results are computed once and reused by every later trial and sweep
    on the same storage. Ctrl-C leaves a sweep that the same --name resumes.
    """
    given = locals()
    from orchestrator.options import SweepOptions, parse_objective

    texts = {
        "sets": tuple(sets or ()),
        "objectives": tuple(map(parse_objective, objectives or ())),
        "gates": tuple(gates or ()),
    }
    options = SweepOptions(**{**given, **texts, "experiment": _located(experiment)})
    _recipe(experiment, sets)  # a wrong setting is said before Ray takes seconds to import
    from orchestrator.trials.sweep import run_sweep

    load_deferred(("numpy",))  # Ray's threads must not race for it
    run_sweep(options)


def _located(path: Path) -> Path:
    """Find a file in the working directory, else in the project: `ray submit` starts in a home."""
    project = Path(__file__).parents[2] / path
    return project if not exists(path) and exists(project) else path


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
    from orchestrator.execution.single import run_recipe
    from orchestrator.store.filesystem import check_storage

    check_storage(storage)
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
    """Check a recipe and its data, show the wiring, run nothing.

    Own images (data.source=folder:PATH) are looked at: classes, counts, which
    classes would be new, and all faults. Exits with 2 when they can't be used.
    """
    recipe = _recipe(experiment, sets)
    from orchestrator.cli.terminal_tables import data_table, plan_table
    from orchestrator.report.terminal import console
    from orchestrator.search.recipe_paths import recipe_digest
    from orchestrator.trials.data_look import say, say_faults
    from trainables import pipeline
    from trainables.data.look import look

    pipeline.check_trunk(recipe)
    steps = pipeline.plan(recipe)
    out = console()
    if show:
        out.print(plan_table(pipeline.describe(steps)))
    say(out, f"{recipe.name}: {len(steps)} stages, recipe {recipe_digest(recipe)[:12]}")
    found = look(recipe.data)
    if found.classes:
        say(out, found.summary())
        out.print(data_table(found))
    say_faults(found, out)


@app.command(epilog=examples("orchestrator methods", "orchestrator methods losses"))
def methods(
    kind: Annotated[str | None, typer.Argument(help="One kind, in detail.")] = None,
) -> None:
    """List what a recipe can name: settings, ranges, sources."""
    from orchestrator.cli.catalog import rows

    found = rows(kind)
    from orchestrator.cli.terminal_tables import methods_details, methods_table
    from orchestrator.report.terminal import console

    console().print(methods_details(found) if kind else methods_table(found))


@app.command(epilog=examples("orchestrator spaces", "orchestrator sweep --space long_tail"))
def spaces() -> None:
    """List the search spaces: what a sweep may vary."""
    import search_spaces
    from orchestrator.cli.terminal_tables import space_text
    from orchestrator.report.terminal import console

    for name in search_spaces.names():
        console().print(space_text(name, search_spaces.describe(name)))


@app.command(
    epilog=examples(
        "orchestrator report           list the sweeps",
        "orchestrator report monday    write the page of one sweep again",
    )
)
def report(
    name: Annotated[
        str | None, typer.Argument(help="Name of a sweep, or of a fit's model.")
    ] = None,
    storage: Storage = "runs",
) -> None:
    """List sweeps, or write the report of one.

    Prints where the report is, also that of a fit: a single HTML file that needs no network.
    Damaged records are named, a line each; the other sweeps are listed.
    """
    from orchestrator.options import local_folder
    from orchestrator.records import SweepRecord
    from trainables.errors import ConfigError, did_you_mean

    found_at = local_folder(storage).glob("sweeps/*/sweep.json")
    folders = {path.parent.name: path.parent for path in found_at}
    if name is None:
        from orchestrator.cli.terminal_tables import sweeps_table
        from orchestrator.report.summary import readable_records
        from orchestrator.report.terminal import console

        found, damaged = readable_records(folders.values())
        console().print(sweeps_table(found))
        for line in damaged:
            typer.echo(f"error: {line}", err=True)
        if damaged and not found:
            raise typer.Exit(2)
        return
    pages = {p.parent.name: p for p in local_folder(storage).glob("models/*/report.html")}
    if name in pages and name not in folders:
        typer.echo(pages[name])
        return
    if name not in folders:
        names = sorted({*folders, *pages})
        known = ", ".join(names) or "none"
        raise ConfigError(
            f"no sweep '{name}' in {storage}; known: {known}{did_you_mean(name, names)}"
        )
    from orchestrator.report.page import write_report

    typer.echo(write_report(SweepRecord.load(folders[name]), folders[name]))


@app.command(epilog=examples("orchestrator clean", "orchestrator clean --storage s3://bucket/runs"))
def clean(storage: Storage = "runs") -> None:
    """Remove stored tensors that no stage result refers to.

    They remain when results are damaged, when their folders in STORAGE/stages
    are deleted, or when a process is killed. Those of the last day stay.
    """
    from orchestrator.store.collection import collect
    from orchestrator.store.filesystem import open_backend
    from trainables.errors import ConfigError

    backend = open_backend(storage)
    if not backend.names("stages"):
        raise ConfigError(f"--storage: there are no stage results in {storage}")
    typer.echo(collect(backend).line())


@app.command()
def ui(
    storage: Storage = "runs",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Show all runs in MLflow's user interface.

    It is reachable from this machine only (127.0.0.1).
    """
    import os

    from orchestrator.options import local_folder
    from orchestrator.tracking.mlflow_client import TRAINING_MODE, require_database, tracking_uri
    from trainables.text.redaction import redact

    address = tracking_uri(None, local_folder(storage))
    require_database(address)
    if address.startswith(("http://", "https://")):
        typer.echo(f"runs are recorded by the server at {redact(address)}: open it in a browser")
        return
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    typer.echo(f"open http://127.0.0.1:{port}/#/experiments?{TRAINING_MODE}")
    # -m puts the working folder first: a file tty.py or html.py in it would be imported by MLflow
    # the address is no argument, because a password in it could be read by other users
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "MLFLOW_BACKEND_STORE_URI": address}
    os.execve(sys.executable, server, environment)


@app.command()
def version() -> None:
    """Print the version of this and of what it stands on."""
    from importlib.metadata import version as of

    for name in ("longtail-orchestrator", "torch", "ray", "optuna", "mlflow"):
        typer.echo(f"{name} {of(name)}")


app.command(
    epilog=examples(
        "orchestrator fit photos",
        "orchestrator fit photos --backbone resnet50.a1_in1k",
        "orchestrator fit photos --json > fit.json",
    )
)(fit)
app.command(
    cls=with_former({"--version": "--model-version"}),
    epilog=examples(
        "orchestrator predict cat.png dog.jpg",
        "orchestrator predict inbox --model-version previous",
        "orchestrator predict 'inbox/**/*.jpg' --json",
        "find inbox -newer last | orchestrator predict - --csv",
    ),
)(predict)
app.command(
    cls=with_former({"--at-once": "--concurrency"}),
    epilog=examples(
        "orchestrator reproduce                  list the tables",
        "orchestrator reproduce digits_lt        seconds, no download",
        "orchestrator reproduce cifar10_lt --factors 100 --seeds 0",
        "orchestrator reproduce cifar10_lt --concurrency 4    on Ray, four runs at a time",
    ),
)(reproduce)
app.add_typer(promote_app, name="promote")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    What a user got wrong is one line on standard error, exit status 2; a failure of disk, host or
    Ray is one line, exit status 1.

    Args:
        arguments: Words after the program's name; default those of this process.
    """
    choose_threads()
    defer_imports()
    try:
        with keep_ctrl_c():
            status = app(args=None if arguments is None else list(arguments), standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        fail(error)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
