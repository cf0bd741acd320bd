"""A champion in MLflow's sqlite file, as far as it is read without MLflow."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def name_champion(storage: Path, model: str, folder: Path, version: int = 1) -> None:
    """Make a folder the files of a model's champion."""
    storage.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(storage / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        database.execute(
            "CREATE TABLE model_versions "
            "(name, version, storage_location, source, status, current_stage)"
        )
        database.execute(
            "INSERT INTO registered_model_aliases VALUES (?, 'champion', ?)", (model, version)
        )
        row = (model, version, None, str(folder), "READY", "None")
        database.execute("INSERT INTO model_versions VALUES (?, ?, ?, ?, ?, ?)", row)
