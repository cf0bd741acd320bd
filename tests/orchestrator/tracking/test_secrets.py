"""A password in the tracking address is written nowhere; a planted entry deletes nothing."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.execution.infrastructure import one_line
from orchestrator.records import FailureRecord, SweepRecord
from orchestrator.report.page import write_report
from orchestrator.tracking.mlflow_client import ensure_experiment
from orchestrator.tracking.mlflow_runs import MlflowRuns
from orchestrator.tracking.tracker import Tracker
from tests.helpers.factory import make_record
from trainables.text.redaction import redact

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

PASSWORD = "hunter2%21"


ADDRESSES = [
    f"http://ann:{PASSWORD}@127.0.0.1:9",
    f"http://{PASSWORD}@127.0.0.1:9",
    f"postgresql://ann:{PASSWORD}@127.0.0.1:9/mlflow",
    f"mysql+pymysql://ann:x@y/{PASSWORD}@127.0.0.1:9/mlflow",
    f"postgresql://127.0.0.1:9/mlflow?user=ann&password={PASSWORD}",
]


@pytest.mark.parametrize("uri", ADDRESSES)
def test_a_password_is_recognized_in_any_sentence(uri: str) -> None:
    text = redact(f"API request to {uri}/api/2.0 failed ('{uri}')")
    assert "hunter2" not in text
    assert text.startswith("API request to ")
    assert "127.0.0.1:9" in text


@pytest.mark.parametrize("uri", [ADDRESSES[0], ADDRESSES[4]])
def test_no_written_file_and_no_line_has_the_password(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    caplog.set_level(logging.DEBUG)
    tracker = Tracker.open(None, tmp_path, "secret", tmp_path / "spool", patience=0.0)
    tracker.start_sweep("s", params={"a": 1}, tags={}, experiment={"seed": 0})
    end = time.monotonic() + 120
    while "does not answer" not in caplog.text and time.monotonic() < end:
        time.sleep(0.1)
    assert not tracker.close(0.1), "nobody listens"
    record = make_record(tmp_path, trials=3)
    # as a new sweep writes it, and as one of an earlier version reads it back
    old = record.model_dump() | {"tracking_uri": uri}
    SweepRecord.model_validate(old).save(tmp_path)
    write_report(SweepRecord.load(tmp_path), tmp_path)

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"sweep.json", "report.html", "entries.jsonl", "sender.log"} <= {f.name for f in files}
    found = [f.name for f in files if "hunter2" in f.read_text("utf-8", "replace")]
    assert found == []
    assert "does not answer" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_error_that_quotes_the_address_is_recorded_without_the_password() -> None:
    error = RuntimeError(f"API request to {ADDRESSES[0]}/api/2.0 failed")
    found = FailureRecord(step="promotion", error=str(error), traceback=f"Traceback\n{error}")
    shown = one_line(error) + found.model_dump_json() + str(found)
    assert "hunter2" not in shown
    assert shown.count("127.0.0.1:9/api/2.0") == 4


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/ann@work/mlflow.db",
        "no address",
        "http://host:5000/a",
        "ann@host",
        "labels: corrected.csv names 'token=abc/secret=1.jpg', no image of password=x",
        "s3://team/photos/cats@home/token=abc.jpg can't be read",
        "file:///photos/ann@home/pwd=1.jpg; a://b",
    ],
)
def test_what_holds_no_password_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:///a.db?password=x1&mode=ro", "sqlite:///a.db?password=x1&mode=ro"),
        (
            "mssql://h/db?user=ann;PWD=x1;token=x2;n=3",
            "mssql://h/db?user=ann;PWD=***;token=***;n=3",
        ),
        ("env MLFLOW_TRACKING_TOKEN=a.b+c/d==, x", "env MLFLOW_TRACKING_TOKEN=***, x"),
        ("{'HUB_API_KEY': 'a b', \"N\": 1}", "{'HUB_API_KEY': '***', \"N\": 1}"),
        ("TOKENIZERS_PARALLELISM=false MY_TOKENS=3", "TOKENIZERS_PARALLELISM=false MY_TOKENS=3"),
        ("at http://a:b@h/x and http://c@h/y", "at http://***@h/x and http://***@h/y"),
    ],
)
def test_secrets_of_addresses_are_hidden_one_by_one(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


@pytest.fixture
def runs(client: Any, tmp_path: Path) -> MlflowRuns:
    experiment = ensure_experiment(client, "planted", tmp_path)
    return MlflowRuns(client, experiment, tmp_path / "spool" / "files")


def plant(name: str, tmp_path: Path, run: str) -> dict[str, Any]:
    return {
        "op": "files",
        "sweep": run,
        "run": "sweep",
        "time": 1000,
        "path": "figures",
        "temporary": True,
        "folder": name,
    }


def precious(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    return folder


@pytest.mark.parametrize(
    "name", ["{0}/home", "../../home", "..", ".", "", "{0}/spool/files/../../home", "link", "{0}"]
)
def test_a_planted_entry_sends_and_deletes_nothing(
    name: str, runs: MlflowRuns, client: Any, tmp_path: Path
) -> None:
    home = precious(tmp_path / "home")
    waiting = precious(tmp_path / "spool" / "files" / "own")
    (tmp_path / "spool" / "files" / "link").symlink_to(home)
    runs.apply(plant(name.format(tmp_path), tmp_path, f"{tmp_path}"))
    assert (home / "thesis.txt").is_file()
    assert (waiting / "thesis.txt").is_file()
    assert runs.run_id(f"{tmp_path}", "sweep") is None, "something was sent"


def test_a_link_inside_a_folder_that_waits_is_not_followed(
    runs: MlflowRuns, tmp_path: Path
) -> None:
    home = precious(tmp_path / "home")
    own = precious(tmp_path / "spool" / "files" / "own")
    (own / "figure.png").symlink_to(home / "thesis.txt")
    runs.apply(plant("own", tmp_path, "linked"))
    assert (home / "thesis.txt").is_file()
    assert runs.run_id("linked", "sweep") is None


@pytest.mark.parametrize("former", [False, True])
def test_a_folder_of_the_spool_is_sent_and_removed(
    former: bool, runs: MlflowRuns, client: Any, tmp_path: Path
) -> None:
    own = precious(tmp_path / "spool" / "files" / "own")
    runs.apply(plant(str(own) if former else "own", tmp_path, f"own-{former}"))
    run_id = runs.run_id(f"own-{former}", "sweep")
    assert [f.path for f in client.list_artifacts(run_id, "figures")] == ["figures/thesis.txt"]
    assert not own.exists()


@pytest.mark.parametrize("path", ["../../outside", "/outside", "a/../../../outside"])
@pytest.mark.parametrize("op", ["files", "start"])
def test_a_planted_entry_writes_nothing_outside_the_artifacts(
    op: str, path: str, runs: MlflowRuns, tmp_path: Path
) -> None:
    precious(tmp_path / "spool" / "files" / "own")
    where = f"{tmp_path}{path}" if path.startswith("/") else path
    entry = plant("own", tmp_path, f"{tmp_path}") | {"path": where}
    start = {"op": "start", "name": "n", "tags": {}, "params": {}, "texts": {f"{where}/x": "text"}}
    with pytest.raises(MlflowException):
        runs.apply(entry if op == "files" else entry | start)
    assert not list(tmp_path.rglob("outside"))
    assert not (tmp_path.parent / "outside").exists()
