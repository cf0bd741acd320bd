"""One way to reach MLflow: quiet, without telemetry, the database created once."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

# What a user has set wins. Two retries instead of seven: the spool retries by itself, and a thread
# that sits in the client's own back-off for minutes cannot be asked to stop.
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(uri: str | None, artifact_root: Path) -> str:
    """Return the tracker's address: given, else ``MLFLOW_TRACKING_URI``, else a sqlite file.

    Args:
        uri: What the command line says.
        artifact_root: Folder of the embedded default, ``mlflow.db`` inside it.

    Example:
        >>> tracking_uri("http://127.0.0.1:5000", Path("runs"))
        'http://127.0.0.1:5000'
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"sqlite:///{(artifact_root / 'mlflow.db').resolve()}"


def connect(uri: str) -> Any:
    """Return an ``MlflowClient`` for tracking and registry at one address.

    Imports MLflow (seconds), and creates a sqlite database that does not exist yet (seconds of
    migrations): call it off the main thread where somebody waits.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with _creation_lock(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """Let one process at a time create or migrate a sqlite file."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or not path or path.startswith(":memory:"):
        yield
        return
    database = Path(path.partition("?")[0])
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{database}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_experiment(client: Any, name: str, artifact_root: Path) -> str:
    """Return the id of the MLflow experiment of that name, created or restored where needed.

    A server chooses where artifacts go; with a database address they go below ``artifact_root``.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if not client.tracking_uri.startswith(("http://", "https://")):
            location = (artifact_root / "artifacts").resolve().as_uri()
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage == "deleted":
        logger.warning("MLflow experiment '%s' was deleted; it is restored to go on", name)
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
