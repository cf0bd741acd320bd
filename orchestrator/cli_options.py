"""What several commands share: their options, and how a help text ends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Model = Annotated[str, typer.Option(help="Name of the registered model.")]
Tracking = Annotated[
    str | None,
    typer.Option(help="MLflow address; default MLFLOW_TRACKING_URI, else sqlite in the storage."),
]


def examples(*lines: str) -> str:
    r"""Return the end of a help text: one example per line (``\b``: lines stay as they are)."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
