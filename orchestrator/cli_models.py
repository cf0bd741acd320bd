"""Commands about registered versions: ``predict`` with one, and those of ``promote``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli_options import Model, Storage, Tracking, examples
from trainables.lazy import load_deferred

if TYPE_CHECKING:
    from orchestrator.registry import Registry

promote_app = typer.Typer(
    help="See, promote and roll back versions in the model registry.",
    epilog=examples(
        "orchestrator promote list",
        "orchestrator promote version 4    let the gates judge version 4 again",
        "orchestrator promote rollback     champion and previous champion swap",
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _registry(storage: str, uri: str | None) -> Registry:
    from orchestrator.mlflow_client import tracking_uri
    from orchestrator.options import local_folder
    from orchestrator.registry import Registry

    return Registry(tracking_uri(uri, local_folder(storage)))


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files: PNG, JPEG, WebP, BMP, GIF.")],
    version: Annotated[str, typer.Option(help="Version or alias.")] = "champion",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one line per image.")
    ] = False,
    model: Model = "longtail",
    storage: Storage = "runs",
    tracking: Tracking = None,
) -> None:
    """Name what is in images with a registered version.

    It runs in this process. An image whose confidence is below the model's threshold is marked
    unknown: it shows none of the classes the model was trained on.
    """
    from orchestrator.predictor import answers_table, open_version, predict_files
    from orchestrator.views import console

    load_deferred()
    loaded = open_version(_registry(storage, tracking), model, version)
    answers = predict_files(loaded, images)
    if as_json:
        typer.echo("\n".join(answer.model_dump_json() for answer in answers))
    else:
        console().print(answers_table(answers))


@promote_app.command("list")
def promote_list(
    model: Model = "longtail", storage: Storage = "runs", tracking: Tracking = None
) -> None:
    """Show champion, challenger, previous champion; metrics."""
    from orchestrator import promote as gatekeeper
    from orchestrator.views import console, versions_table

    rows = gatekeeper.standing(_registry(storage, tracking), model)
    console().print(versions_table(model, rows))


@promote_app.command("version")
def promote_version(
    number: Annotated[str, typer.Argument(help="Version to judge again.")],
    force: Annotated[
        bool, typer.Option("--force", help="Make it champion though gates refuse; it is recorded.")
    ] = False,
    model: Model = "longtail",
    storage: Storage = "runs",
    tracking: Tracking = None,
) -> None:
    """Let the gates compare a version with the champion.

    Exits with 1 when they refuse it.
    """
    from orchestrator import promote as gatekeeper
    from orchestrator.views import console, promotion_lines

    registry = _registry(storage, tracking)
    load_deferred()
    record = gatekeeper.reconsider(number, registry=registry, model=model, force=force)
    console().print(promotion_lines(record))
    raise typer.Exit(0 if record.promoted else 1)


@promote_app.command("rollback")
def promote_rollback(
    model: Model = "longtail", storage: Storage = "runs", tracking: Tracking = None
) -> None:
    """Make the previous champion the champion again.

    A second call undoes the first.
    """
    from orchestrator import promote as gatekeeper

    version = gatekeeper.rollback(_registry(storage, tracking), model)
    typer.echo(f"{model}: version {version} is champion again")
