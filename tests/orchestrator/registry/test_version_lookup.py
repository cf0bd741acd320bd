"""A version is found without MLflow: in its sqlite file, or by one call to its server."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlparse

import pytest
from PIL import Image

from orchestrator.registry.predictor import load_version
from orchestrator.registry.version_lookup import Version, find_version, folder_of, only_model
from orchestrator.registry.versions import Registry, folder_digest
from tests.helpers import ROOT
from tests.helpers.exported import exported, new_run
from trainables.errors import ConfigError

pytestmark = [
    # MLflow's own use of SQLAlchemy and pandas.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.filterwarnings("ignore:.*Add type hints to the `predict` method"),
]
NO_MLFLOW = """
import sys
from orchestrator.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    print(left.code or 0)
imported = {name.partition(".")[0] for name in sys.modules}
print(sorted(imported & {"mlflow", "ray", "timm", "optuna"}))
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("a b")  # a folder with a space
    uri = f"sqlite:///{root}/mlflow.db"
    registry = Registry(uri)
    for seed in (0, 1):
        registry.register("longtail", exported(seed), new_run(uri, root), {}, {})
    registry.set_alias("longtail", "champion", "2")
    registry.set_alias("longtail", "previous", "1")
    Image.new("RGB", (8, 8), (90, 120, 30)).save(root / "image.png")
    return root


def predict(storage: Path, *words: str) -> list[str]:
    """Return what `orchestrator predict` prints, its status and what it imported."""
    command = ["predict", str(storage / "image.png"), "--json", "--storage", str(storage), *words]
    done = subprocess.run(
        [sys.executable, "-c", NO_MLFLOW, *command],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), done.stderr]


def test_a_prediction_does_not_import_mlflow(storage: Path) -> None:
    answer, status, imported, _ = predict(storage)
    assert (status, imported) == ("0", "[]")
    assert json.loads(answer)["class_name"]


def test_an_alias_that_moves_counts_at_once(storage: Path) -> None:
    uri = f"sqlite:///{storage}/mlflow.db"
    registry = Registry(uri)
    found = {name: find_version(uri, "longtail", name) for name in ("champion", "previous", "1")}
    assert [v and v.number for v in found.values()] == ["2", "1", "1"]
    registry.set_alias("longtail", "champion", "1")  # as in MLflow's own user interface
    try:
        moved = find_version(uri, "longtail", "champion")
        assert moved == found["previous"]
        assert moved is not None
        folder = folder_of(moved, storage / "versions")
        assert folder is not None
        assert folder_digest(folder) == folder_digest(exported(0))
    finally:
        registry.set_alias("longtail", "champion", "2")


def test_what_is_not_there_is_said_as_before(storage: Path) -> None:
    uri = f"sqlite:///{storage}/mlflow.db"
    for name, text in (
        ("9", "no version 9; its versions: 1, 2"),
        ("x", "no alias 'x'; its aliases: champion, previous"),
    ):
        assert find_version(uri, "longtail", name) is None
        with pytest.raises(ConfigError, match=text):
            load_version(uri, "longtail", name, storage / "versions")


def test_a_deleted_version_is_not_found(storage: Path, tmp_path: Path) -> None:
    shutil.copy(storage / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Registry(uri)._client.delete_model_version("longtail", "2")
    assert find_version(uri, "longtail", "2") is None
    assert find_version(uri, "longtail", "champion") is None
    assert find_version(uri, "longtail", "1") is not None


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_a_file_that_is_not_understood_is_left_to_mlflow(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "mlflow.db"
    if content is not None:
        file.write_bytes(content)
    assert find_version(f"sqlite:///{file}", "longtail", "champion") is None
    assert file.exists() == (content is not None)  # nothing is created by looking


def test_other_tables_are_left_to_mlflow(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        database.execute("INSERT INTO registered_model_aliases VALUES ('m', 'champion', 1)")
        database.execute("INSERT INTO registered_model_aliases VALUES ('m', 'twice', 1)")
        database.execute("INSERT INTO registered_model_aliases VALUES ('m', 'twice', 2)")
    for alias in ("champion", "twice"):  # without a table of versions; in two workspaces
        assert find_version(f"sqlite:///{tmp_path}/mlflow.db", "m", alias) is None


DIGEST = "a" * 64


class Server(BaseHTTPRequestHandler):
    """Answers as MLflow's REST interface does; ``asked`` are the calls."""

    asked: ClassVar[list[tuple[str, str | None]]] = []
    source = ""
    digest = DIGEST
    models: ClassVar[dict[str, object]] = {}

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        place = urlparse(self.path)
        query = {name: value for name, (value,) in parse_qs(place.query).items()}
        known = query in ({"name": "m", "alias": "champion"}, {"name": "m", "version": "3"})
        body: dict[str, object] = {"error_code": "RESOURCE_DOES_NOT_EXIST"}
        if known:
            tags = [{"key": "orchestrator.digest", "value": self.digest}]
            body = {"model_version": {"version": "3", "source": self.source, "tags": tags}}
        if place.path.endswith("registered-models/search"):
            known, body = True, self.models
        content = json.dumps(body).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    Server.asked, Server.source, Server.digest = [], "mlflow-artifacts:/1/run/model", DIGEST
    running = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_server_is_asked_once(server: str, storage: Path, tmp_path: Path) -> None:
    assert find_version(server, "m", "champion") == Version("3", Server.source, DIGEST)
    assert find_version(server, "m", "3") == Version("3", Server.source, DIGEST)
    assert find_version(server, "m", "other") is None
    assert [path.partition("?")[0].rpartition("mlflow/")[2] for path, _ in Server.asked] == [
        "registered-models/alias", "model-versions/get", "registered-models/alias",
    ]  # fmt: skip
    Server.asked.clear()
    shutil.copytree(exported(0), tmp_path / "versions" / DIGEST)  # as an earlier call has left it
    shutil.copy(storage / "image.png", tmp_path)
    answer, status, imported, _ = predict(tmp_path, "--model", "m", "--tracking", server)
    assert (status, imported, len(Server.asked)) == ("0", "[]", 1)
    assert json.loads(answer)["class_name"]


def test_the_only_model_of_a_server_needs_no_name(server: str) -> None:
    Server.models = {"registered_models": [{"name": "photos"}]}
    assert only_model(server) == "photos"
    assert [path.partition("?")[0].rpartition("mlflow/")[2] for path, _ in Server.asked] == [
        "registered-models/search"
    ]
    Server.models = {"registered_models": [{"name": f"m{n:02d}"} for n in range(12)]}
    names = ", ".join(f"m{n:02d}" for n in range(10))
    with pytest.raises(ConfigError, match=f"several; name one of {names} and 2 more$"):
        only_model(server)
    Server.models = {}  # a server leaves an empty list out
    with pytest.raises(ConfigError, match="no model is registered yet"):
        only_model(server)
    Server.models = {"registered_models": 3}
    assert only_model(server) is None


def test_the_only_model_of_a_database_needs_no_name(storage: Path, tmp_path: Path) -> None:
    shutil.copy(storage / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(uri)
    registry._client.create_registered_model("without-a-version")
    assert only_model(uri) == registry.only_model() == "longtail"
    registry.register("photos", exported(0), new_run(uri, tmp_path), {}, {})
    for ask in (lambda: only_model(uri), registry.only_model):
        with pytest.raises(
            ConfigError, match="--model: there are several; name one of longtail, p"
        ):
            ask()
    for model, number in (("longtail", "1"), ("longtail", "2"), ("photos", "1")):
        registry._client.delete_model_version(model, number)
    for ask in (lambda: only_model(uri), registry.only_model):
        with pytest.raises(ConfigError, match="no model is registered yet"):
            ask()
    assert only_model(f"sqlite:///{tmp_path}/none.db") is None
    assert only_model("postgresql://nowhere/db") is None


def test_a_server_is_told_who_asks(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    find_version(server, "m", "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "word")
    find_version(server, "m", "champion")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "another")
    find_version(server.replace("//", "//me:wor%64@"), "m", "champion")  # in the address
    basic = "Basic bWU6d29yZA=="
    assert [told for _, told in Server.asked] == ["Bearer secret", basic, basic]
    assert all("wor" not in path for path, _ in Server.asked)


def test_a_server_that_does_not_answer_is_left_to_mlflow(server: str) -> None:
    host = server.rpartition(":")[0]
    for address in (f"{host}:1", f"{host}:port", "http://", "http://[", f"{server}/else where"):
        assert find_version(address, "m", "other") is None


@pytest.mark.parametrize("digest", ["../../etc", "", "A" * 64])
def test_a_digest_of_a_server_names_no_other_folder(
    server: str, tmp_path: Path, digest: str
) -> None:
    Server.digest = digest
    found = find_version(server, "m", "champion")
    assert found == Version("3", Server.source, "")
    assert folder_of(found, tmp_path) is None
