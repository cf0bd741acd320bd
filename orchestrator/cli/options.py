"""What several commands share: their options, and how a help text ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

DIGITS = Path("experiments/digits.yaml")
ExperimentFile = Annotated[
    Path,
    typer.Option("--experiment", "-e", help="YAML file with the recipe to start from."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="PATH=VALUE", help="Change one setting; wins over the file. Repeat."
    ),
]
Storage = Annotated[
    str, typer.Option(help="Where results live: a folder, or a URI such as s3://bucket/runs.")
]


def _model_name(name: str) -> str:
    from orchestrator.options import check_name

    return check_name("--model", name)


def optional_model_name(name: str | None) -> str | None:
    """Check the name of a registered model, if one is given."""
    return None if name is None else _model_name(name)


def _is_given(context: typer.Context, parameter: typer.CallbackParam) -> bool:
    source = context.get_parameter_source(str(parameter.name))
    return source is not None and source.name == "COMMANDLINE"


def not_empty(
    context: typer.Context, parameter: typer.CallbackParam, text: str | None
) -> str | None:
    """Refuse an empty text that was typed: a shell makes it of a variable that is not set.

    Left out, such an option has a meaning of its own, which nobody who types a value asks for; an
    empty path would be the working folder.

    Raises:
        ConfigError: The option or argument was given an empty text.
    """
    from trainables.errors import ConfigError

    if text is not None and not text.strip() and _is_given(context, parameter):
        option = parameter.opts[0]
        remedy = "; leave it out for its default" if option.startswith("-") else ""
        raise ConfigError(f"{option}: must not be empty{remedy}")
    return text


def given_model_name(context: typer.Context, parameter: typer.CallbackParam, name: str) -> str:
    """Check the name of a registered model unless the option was left out.

    Raises:
        ConfigError: The name is not allowed.
    """
    return _model_name(name) if _is_given(context, parameter) else name


ChosenModel = Annotated[
    str | None,
    typer.Option(
        help="Name of the registered model; default the only one.", callback=optional_model_name
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="Name of the registered model; default the folder's or table's, else longtail.",
        callback=given_model_name,
    ),
]
Gates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="GATE.SETTING=VALUE",
        help="Change a gate, e.g. few.allowed_regression=2; it is recorded. Repeat.",
    ),
]
Tracking = Annotated[
    str | None,
    typer.Option(
        help="MLflow address; default MLFLOW_TRACKING_URI, else sqlite in the storage.",
        callback=not_empty,
    ),
]


def examples(*lines: str) -> str:
    r"""Return the end of a help text: one example per line (``\b``: lines stay as they are)."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def with_former(names: Mapping[str, str]) -> type[TyperCommand]:
    """Return the class of a command that also takes the former names of some of its options.

    They are in no help text, and no message suggests them.

    Args:
        names: Former name to the one of today, e.g. ``{"--study": "--space"}``.
    """

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: Sequence[str]) -> list[str]:
            words = list(args)
            end = words.index("--") if "--" in words else len(words)
            for position, word in enumerate(words[:end]):
                option, equals, value = word.partition("=")
                words[position] = f"{names.get(option, option)}{equals}{value}"
            return super().parse_args(ctx, words)

    return Command
