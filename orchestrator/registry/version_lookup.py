"""Folder of a registered version without importing MLflow, which takes seconds.

MLflow's sqlite file is read by ``sqlite3``, and a server is asked by one REST call. Whatever these
do not answer, an alias that does not exist or a table of a later MLflow, is left to MLflow.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urlencode, urlparse

from orchestrator.registry.packaging import MODEL_PATH

if TYPE_CHECKING:
    from trainables.inference.model import Model

SECONDS = 10.0
SQLITE = "sqlite:///"
DIGEST_TAG = "orchestrator.digest"
BY_ALIAS = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
BY_NUMBER = (
    "SELECT coalesce(storage_location, source) FROM model_versions "
    "WHERE name = ? AND version = ? AND status = 'READY' AND current_stage != 'Deleted_Internal'"
)


class Version(NamedTuple):
    """A registered version: number, URI of its files, and digest of the registered folder."""

    number: str
    source: str
    digest: str = ""


def load_version(uri: str, model: str, version_or_alias: str, copies: Path) -> Model:
    """Load a version's model with the installed code instead of the code in the version.

    Args:
        uri: MLflow's address.
        model: Registered name.
        version_or_alias: ``"3"`` or ``"champion"``.
        copies: Folder for copies of versions whose files this machine cannot read in place.

    Raises:
        ConfigError: The model, version or alias does not exist, or is not an exported model.
    """
    from trainables.inference.model import load_model

    found = find_version(uri, model, version_or_alias)
    folder = None if found is None else folder_of(found, copies)
    if folder is None:
        from orchestrator.registry.predictor import open_version
        from orchestrator.registry.versions import Registry

        registry = Registry(uri)
        if found is None or not found.digest:
            return open_version(registry, model, version_or_alias)
        folder = registry.download(model, found.number, copies / found.digest)
    return load_model(folder)


def find_version(uri: str, model: str, version_or_alias: str) -> Version | None:
    """Return a version; ``None`` if MLflow has to be asked."""
    if uri.startswith(SQLITE):
        return _in_database(Path(uri.removeprefix(SQLITE)), model, version_or_alias)
    if uri.startswith(("http://", "https://")):
        return _at_server(uri, model, version_or_alias)
    return None


def folder_of(version: Version, copies: Path) -> Path | None:
    """Return the model folder of a version, in place or copied before; ``None`` if neither is."""
    place = urlparse(version.source)
    if place.scheme in ("", "file"):
        folder = Path(unquote(place.path))
        if folder.is_dir():
            return folder / MODEL_PATH if (folder / MODEL_PATH).is_dir() else folder
    copy = copies / version.digest
    return copy if version.digest and copy.is_dir() else None


def _in_database(file: Path, model: str, version_or_alias: str) -> Version | None:
    """Look a version up in MLflow's sqlite file, which is opened for reading only."""
    if not file.is_file():
        return None
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=SECONDS)
        ) as database:
            number = version_or_alias
            if not number.isdigit():
                ((number,),) = database.execute(BY_ALIAS, (model, version_or_alias)).fetchall()
            ((source,),) = database.execute(BY_NUMBER, (model, int(number))).fetchall()
    except (sqlite3.Error, ValueError):  # other tables, or not exactly one row
        return None
    return Version(str(number), source) if source else None


def _at_server(uri: str, model: str, version_or_alias: str) -> Version | None:
    """Ask a server for a version by one call."""
    from urllib.request import Request, urlopen

    if version_or_alias.isdigit():
        call, query = "model-versions/get", {"name": model, "version": version_or_alias}
    else:
        call, query = "registered-models/alias", {"name": model, "alias": version_or_alias}
    try:
        place = urlparse(uri)
        address = place._replace(
            netloc=place.netloc.rpartition("@")[2],  # without credentials
            path=f"{place.path.rstrip('/')}/api/2.0/mlflow/{call}",
            query=urlencode(query),
        ).geturl()
        headers = _credentials(place.username, place.password)
        with urlopen(Request(address, headers=headers), timeout=SECONDS) as answer:
            found = json.load(answer)["model_version"]
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        digest = str(tags.get(DIGEST_TAG, ""))
        digest = digest if re.fullmatch("[0-9a-f]{64}", digest) else ""
        return Version(str(found["version"]), str(found["source"]), digest)
    except (HTTPException, OSError, ValueError, KeyError, TypeError):
        return None


def _credentials(user: str | None, password: str | None) -> dict[str, str]:
    """Return the header of the credentials in the address or in MLflow's environment variables."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user is not None:
        user, password = unquote(user), unquote(password or "")
    else:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if user:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}
    return {"Authorization": f"Bearer {token}"} if token else {}
