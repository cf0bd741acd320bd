"""Commands about registered versions: ``predict`` with one, and those of ``promote``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import ChosenModel, Gates, Storage, Tracking, examples
from trainables.lazy import load_deferred

if TYPE_CHECKING:
    from orchestrator.answering.lines import Line
    from orchestrator.answering.named_images import Unreadable
    from orchestrator.answering.stream import Prediction
    from orchestrator.registry.versions import Registry
    from trainables.data.data_settings import Data

promote_app = typer.Typer(
    help="See, promote and roll back versions in the model registry.",
    epilog=examples(
        "orchestrator promote list",
        "orchestrator promote version 4    let the gates judge version 4 again",
        "orchestrator promote version 4 --gate few.allowed_regression=2",
        "orchestrator promote rollback     champion and previous champion swap",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _address(storage: str, uri: str | None) -> str:
    """Return MLflow's address, and refuse a database that does not exist."""
    from orchestrator.options import local_folder
    from orchestrator.tracking.mlflow_client import require_database, tracking_uri

    address = tracking_uri(uri, local_folder(storage))
    require_database(address)
    return address


def _registry(storage: str, uri: str | None) -> Registry:
    from orchestrator.registry.versions import Registry

    return Registry(_address(storage, uri))


def _data_of(registry: Registry, model: str, version: str, storage: str) -> Data | None:
    """Return the data settings of the sweep that made a version, if its record is here."""
    from orchestrator.options import local_folder
    from orchestrator.records import SweepRecord
    from orchestrator.registry.promote import SWEEP_TAG
    from trainables.experiment import Experiment
    from trainables.settings import build

    if version not in registry.versions(model):
        return None
    sweep = registry.version_tags(model, version).get(SWEEP_TAG, "")
    folder = local_folder(storage) / "sweeps" / sweep
    if not sweep or not (folder / "sweep.json").is_file():
        return None
    return build(Experiment, SweepRecord.load(folder).experiment).data


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images of any format, folders, globs in quotes, - for names on stdin."
        ),
    ],
    model_version: Annotated[
        str, typer.Option(help="Number or alias of the version.")
    ] = "champion",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one line per image.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per image.")] = False,
    model: ChosenModel = None,
    storage: Storage = "runs",
    tracking: Tracking = None,
) -> None:
    """Name what is in images with a registered version.

    One line per image, as it is answered. An image whose confidence is below the model's threshold
    is marked unknown: it shows none of the classes the model was trained on. A file that can't be
    read is a line on standard error; the rest goes on, and the exit status is 1. It runs in this
    process.
    """
    from orchestrator.answering.named_images import named_images, some_images
    from orchestrator.options import local_folder
    from orchestrator.registry.version_lookup import only_model
    from trainables.errors import ConfigError

    if as_json and as_csv:
        raise ConfigError("--json, --csv: give one of them")
    address = _address(storage, tracking)
    groups = some_images(named_images(images))
    model = model or only_model(address) or _registry(storage, tracking).only_model()
    from orchestrator.answering.lines import TextLines, csv_header, csv_line, json_line
    from orchestrator.answering.stream import predictions
    from orchestrator.registry.predictor import load_version

    load_deferred()
    loaded = load_version(address, model, model_version, local_folder(storage) / "versions")
    if as_csv:
        typer.echo(csv_header())
    line = json_line if as_json else csv_line if as_csv else TextLines(loaded.card.class_names)
    raise typer.Exit(_print_answers(predictions(loaded, groups), line))


def _print_answers(answers: Iterable[Prediction | Unreadable], line: Line) -> int:
    """Print answers as they come, and return the exit status: 1 if a file could not be read."""
    from orchestrator.answering.named_images import Unreadable
    from trainables.text.redaction import print_error

    status = 0
    for answer in answers:
        if isinstance(answer, Unreadable):
            print_error(f"{answer.image}: {answer.reason}")
            status = 1
        else:
            typer.echo(line(answer))
    return status


@promote_app.command("list")
def promote_list(
    model: ChosenModel = None, storage: Storage = "runs", tracking: Tracking = None
) -> None:
    """Show champion, challenger, previous champion; metrics."""
    from orchestrator.cli.terminal_tables import versions_table
    from orchestrator.registry import promote as gatekeeper
    from orchestrator.report.terminal import console

    registry = _registry(storage, tracking)
    model = model or registry.only_model()
    console().print(versions_table(model, gatekeeper.list_versions(registry, model)))


@promote_app.command("version")
def promote_version(
    number: Annotated[str, typer.Argument(help="Version to judge again.")],
    force: Annotated[
        bool, typer.Option("--force", help="Make it champion though gates refuse; it is recorded.")
    ] = False,
    gates: Gates = None,
    model: ChosenModel = None,
    storage: Storage = "runs",
    tracking: Tracking = None,
) -> None:
    """Let the gates compare a version with the champion.

    Exits with 1 when they refuse it.
    """
    from orchestrator.cli.terminal_tables import promotion_lines
    from orchestrator.registry import promote as gatekeeper
    from orchestrator.registry.gate_settings import choose_gates
    from orchestrator.report.terminal import console

    chosen = choose_gates(gates or ())
    registry = _registry(storage, tracking)
    model = model or registry.only_model()
    load_deferred()
    data = _data_of(registry, model, number, storage)
    record = gatekeeper.judge_again(
        number, registry=registry, model=model, gates=chosen, force=force, data=data
    )
    console().print(promotion_lines(record, storage))
    raise typer.Exit(0 if record.promoted else 1)


@promote_app.command("rollback")
def promote_rollback(
    model: ChosenModel = None, storage: Storage = "runs", tracking: Tracking = None
) -> None:
    """Make the previous champion the champion again.

    A second call undoes the first.
    """
    from orchestrator.registry import promote as gatekeeper

    registry = _registry(storage, tracking)
    model = model or registry.only_model()
    version = gatekeeper.rollback(registry, model)
    typer.echo(f"{model}: version {version} is champion again")
