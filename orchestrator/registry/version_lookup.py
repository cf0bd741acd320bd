"""Folder of a registered version without importing MLflow or torch, which takes seconds.

MLflow's sqlite file is read by ``sqlite3``, and a server is asked by one REST call. Whatever these
do not answer, an alias that does not exist or a table of a later MLflow, is left to MLflow.

A version keeps a copy of its model's ledger of parts, which gives back what the ledger lost.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlencode, urlparse

from orchestrator.options import LEDGER, folder_of_model, local_folder
from orchestrator.tracking.mlflow_client import tracking_uri
from trainables.errors import ConfigError, did_you_mean

MODEL_PATH = Path("artifacts") / "model"  # the model folder's path inside an MLflow model
T = TypeVar("T")
SECONDS = 10.0
SQLITE = "sqlite:///"
CHAMPION = "champion"
DIGEST_TAG = "orchestrator.digest"
BY_ALIAS = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
MODELS = (
    "SELECT DISTINCT name FROM model_versions "
    "WHERE status = 'READY' AND current_stage != 'Deleted_Internal'"
)
MOST_MODELS = 100  # that a server is asked for
MOST_NAMES = 10  # in an error
BY_NUMBER = (
    "SELECT coalesce(storage_location, source) FROM model_versions "
    "WHERE name = ? AND version = ? AND status = 'READY' AND current_stage != 'Deleted_Internal'"
)


class Version(NamedTuple):
    """A registered version: number, URI of its files, and digest of the registered folder."""

    number: str
    source: str
    digest: str = ""


def only_model(uri: str) -> str | None:
    """Return the name of the only registered model; ``None`` if MLflow has to be asked.

    Raises:
        ConfigError: There is none, or there are several.
    """
    if uri.startswith(SQLITE):
        names = _models_in_database(Path(uri.removeprefix(SQLITE)))
    elif uri.startswith(("http://", "https://")):
        names = _models_at_server(uri)
    else:
        names = None
    return None if names is None else the_one(names)


def the_one(names: Iterable[str]) -> str:
    """Return the only name.

    Example:
        >>> the_one(["photos"])
        'photos'

    Raises:
        ConfigError: There is none, or there are several.
    """
    found = sorted(names)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError("no model is registered yet; `sweep` and `fit` register one")
    more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
    raise ConfigError(
        f"--model: there are several; name one of {', '.join(found[:MOST_NAMES])}{more}"
    )


def no_model(model: str, names: Iterable[str]) -> str:
    """Return the message that a model is not registered.

    Example:
        >>> no_model("photo", ["photos"])
        "there is no registered model 'photo'; registered: photos; did you mean 'photos'?"
    """
    known = sorted(names)
    listed = ", ".join(known[:MOST_NAMES]) or "none"
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    near = did_you_mean(model, known)
    return f"there is no registered model '{model}'; registered: {listed}{more}{near}"


def number_of(asked: str, model: str, numbers: Sequence[str], aliases: Mapping[str, str]) -> str:
    """Return the version that a number or an alias names.

    Raises:
        LookupError: There is none.
    """
    if asked in numbers:
        return asked
    if asked.isdigit():
        known = ", ".join(numbers)
        raise LookupError(f"model '{model}' has no version {asked}; its versions: {known}")
    if asked not in aliases:
        known = ", ".join(sorted(aliases)) or "none"
        near = did_you_mean(asked, aliases)
        raise LookupError(f"model '{model}' has no alias '{asked}'; its aliases: {known}{near}")
    return aliases[asked]


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


def keep_parts(storage: str, model: str, folder: Path) -> None:
    """Put a copy of a model's ledger of parts, if there is one, into an exported model.

    Args:
        storage: Storage of the model.
        model: Registered name.
        folder: The exported model.
    """
    ledger = folder_of_model(storage, model) / LEDGER
    if ledger.is_file():
        shutil.copyfile(ledger, folder / LEDGER)


def restore_parts(storage: str, model: str, ledger: Path | None = None) -> str:
    """Give a model's ledger back what it lost and the champion's version still knows.

    A version whose files this machine does not read in place gives nothing back.

    Args:
        storage: Storage of the model.
        model: Registered name.
        ledger: A copy of the ledger, completed in its place.

    Returns:
        A line that says so; empty where nothing was missing.

    Raises:
        ConfigError: The ledger is damaged.
    """
    ledger = ledger or folder_of_model(storage, model) / LEDGER
    uri = tracking_uri(None, local_folder(storage))
    version = find_version(uri, model, CHAMPION)
    folder = None if version is None else folder_of(version, Path())
    if version is None or folder is None or not (folder / LEDGER).is_file():
        return ""
    from trainables.data.shots.ledger import complete

    lost = complete(ledger, folder / LEDGER)
    images = f"{lost:,} image{'s' if lost > 1 else ''}"
    return f"{images} put back into {ledger} as version {version.number} has them" if lost else ""


def _models_in_database(file: Path) -> list[str] | None:
    """Return the models of MLflow's sqlite file; ``None`` if it can't be read so."""
    rows = _rows(file, lambda database: database.execute(MODELS).fetchall())
    return None if rows is None else [str(name) for (name,) in rows]


def _in_database(file: Path, model: str, version_or_alias: str) -> Version | None:
    """Look a version up in MLflow's sqlite file."""

    def ask(database: sqlite3.Connection) -> Version:
        number = version_or_alias
        if not number.isdigit():
            ((number,),) = database.execute(BY_ALIAS, (model, version_or_alias)).fetchall()
        ((source,),) = database.execute(BY_NUMBER, (model, int(number))).fetchall()
        return Version(str(number), source or "")

    found = _rows(file, ask)
    return found if found is not None and found.source else None


def _rows(file: Path, ask: Callable[[sqlite3.Connection], T]) -> T | None:
    """Ask MLflow's sqlite file, which is opened for reading only; ``None`` without an answer."""
    if not file.is_file():
        return None
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=SECONDS)
        ) as database:
            return ask(database)
    except (sqlite3.Error, ValueError):  # other tables, or not exactly one row
        return None


def _models_at_server(uri: str) -> list[str] | None:
    """Ask a server for its models by one call."""
    found = _called(uri, "registered-models/search", {"max_results": str(MOST_MODELS)})
    try:
        return None if found is None else [m["name"] for m in found.get("registered_models", [])]
    except (KeyError, TypeError, AttributeError):
        return None


def _at_server(uri: str, model: str, version_or_alias: str) -> Version | None:
    """Ask a server for a version by one call."""
    if version_or_alias.isdigit():
        call, query = "model-versions/get", {"name": model, "version": version_or_alias}
    else:
        call, query = "registered-models/alias", {"name": model, "alias": version_or_alias}
    answer = _called(uri, call, query)
    try:
        found = None if answer is None else answer["model_version"]
        if found is None:
            return None
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
        digest = str(tags.get(DIGEST_TAG, ""))
        digest = digest if re.fullmatch("[0-9a-f]{64}", digest) else ""
        return Version(str(found["version"]), str(found["source"]), digest)
    except (KeyError, TypeError, AttributeError):
        return None


def _called(uri: str, call: str, query: dict[str, str]) -> Any | None:
    """Return a server's answer to a call of MLflow's REST interface; ``None`` without one."""
    from urllib.request import Request, urlopen

    try:
        place = urlparse(uri)
        address = place._replace(
            netloc=place.netloc.rpartition("@")[2],  # without credentials
            path=f"{place.path.rstrip('/')}/api/2.0/mlflow/{call}",
            query=urlencode(query),
        ).geturl()
        headers = _credentials(place.username, place.password)
        with urlopen(Request(address, headers=headers), timeout=SECONDS) as answer:
            return json.load(answer)
    except (HTTPException, OSError, ValueError):
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
