"""Connection to MLflow without telemetry, and creation of its sqlite database."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.errors import ConfigError, short
from trainables.text.redaction import redact

logger = logging.getLogger(__name__)

# Environment variables of the user take precedence. Two retries instead of MLflow's seven, because
# the queue retries too, and a thread in MLflow's back-off of minutes cannot be stopped.
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# Without this tag MLflow's interface may take an experiment for one of language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}
# In an address of MLflow's interface: show what belongs to the training of models. Without it the
# interface shows agents and prompts until the user has chosen.
TRAINING_MODE = "workflowType=machine_learning"


def tracking_uri(uri: str | None, artifact_root: Path) -> str:
    """Return the tracking URI: ``uri``, else ``MLFLOW_TRACKING_URI``, else a sqlite file.

    Args:
        uri: Tracking URI of the command line, if given.
        artifact_root: Folder of the default sqlite file ``mlflow.db``.

    Example:
        >>> tracking_uri("http://127.0.0.1:5000", Path("runs"))
        'http://127.0.0.1:5000'
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"sqlite:///{(artifact_root / 'mlflow.db').resolve()}"


def require_database(uri: str) -> None:
    """Refuse an address that is none, and a sqlite file that does not exist: MLflow would make one.

    Raises:
        ConfigError: It is no address, or there is no such file.
    """
    if "://" not in uri and not uri.startswith("databricks"):
        raise ConfigError(
            "MLflow's address must be written like http://HOST:5000 or sqlite:///FILE; "
            f"received {short(redact(uri))}"
        )
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path.partition("?")[0]).is_file():
        raise ConfigError(
            f"nothing was recorded yet: there is no {path}; `orchestrator sweep` does"
        )


def connect(uri: str) -> Any:
    """Return an ``MlflowClient`` with one URI for tracking and registry.

    The call imports MLflow, and creates and migrates a new sqlite database; each takes seconds, so
    interactive programs should call it in a thread.
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
    """Lock a sqlite file, so that one process at a time creates or migrates the database."""
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
    """Return the id of an MLflow experiment, which is created or restored if necessary.

    With a server the artifacts are stored where the server decides, with a database URI below
    ``artifact_root``.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if not client.tracking_uri.startswith(("http://", "https://")):
            location = (artifact_root / "artifacts").resolve().as_uri()
        return str(client.create_experiment(name, artifact_location=location, tags=KIND))
    if found.lifecycle_stage == "deleted":
        logger.warning("MLflow experiment '%s' was deleted and is now restored", name)
        client.restore_experiment(found.experiment_id)
    for key, value in KIND.items():
        if key not in found.tags:  # of an earlier version; a choice in the interface stays
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)
