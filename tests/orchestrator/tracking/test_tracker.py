from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.records import StageUse, TrialRecord
from orchestrator.tracking.mlflow_calls import short_text
from orchestrator.tracking.mlflow_client import ensure_experiment, tracking_uri
from orchestrator.tracking.run_texts import origin_of
from orchestrator.tracking.tracker import SWEEP, Tracker
from tests.helpers.factory import make_record, make_trials

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

EXPERIMENT = "full"
WAIT = 120.0


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an MLflow database that exists already: migrations take seconds."""
    root = tmp_path_factory.mktemp("mlflow")
    MlflowClient(f"sqlite:///{root}/mlflow.db").search_experiments()
    return root


@pytest.fixture
def root(database: Path, request: pytest.FixtureRequest) -> Path:
    return database


def opened(root: Path, spool: Path, uri: str | None = None) -> Tracker:
    address = uri or f"sqlite:///{root}/mlflow.db"
    return Tracker.open(address, root, EXPERIMENT, spool)


def begin(tracker: Tracker, name: str, **tags: str) -> None:
    tracker.start_sweep(name, params={"trials": 24}, tags=tags, experiment={"seed": 0})


def client_of(tracker: Tracker) -> Any:
    return MlflowClient(tracker.uri)


def runs_of(client: Any, sweep: str, kind: str = "trial") -> list[Any]:
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    text = f"tags.`orchestrator.kind` = '{kind}'"
    if kind != "stage":
        text += f" and tags.`orchestrator.sweep` = '{sweep}'"
    return list(client.search_runs([experiment], text))


def steps_of(client: Any, run_id: str, metric: str) -> list[int]:
    return sorted(m.step for m in client.get_metric_history(run_id, metric))


def trial(number: int = 0, **changes: Any) -> TrialRecord:
    return make_trials(number + 1)[number].model_copy(update=changes)


def test_whole_sweep_arrives(root: Path, tmp_path: Path) -> None:
    tracker = opened(root, tmp_path / "spool")
    begin(tracker, "whole", data="d1")
    done = trial()
    tracker.start_trial(done.trial_id, 0, params=done.params, experiment={"seed": 0, "x": [1]})
    rows = [{"epoch": e, "classify/loss": 1.0 / (e + 1), "lr": 0.1} for e in range(3)]
    tracker.log_history(done.trial_id, rows)
    tracker.log_files(done.trial_id, {"confusion.png": b"\x89PNG"}, path="figures")
    tracker.finish_trial(done)
    tracker.finish_sweep(metrics={"best": 0.9})
    assert tracker.close(WAIT)

    client = client_of(tracker)
    sweep = client.get_run(tracker.run_id(SWEEP))
    assert sweep.info.status == "FINISHED"
    assert sweep.data.params == {"trials": "24"}
    assert sweep.data.metrics["best"] == 0.9
    assert sweep.data.tags["data"] == "d1"
    [run] = runs_of(client, "whole")
    assert run.info.run_id == tracker.run_id(done.trial_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert run.data.params == {name: short_text(value) for name, value in done.params.items()}
    assert run.data.metrics["evaluate/auroc"] == pytest.approx(done.metrics["evaluate/auroc"])
    assert run.data.metrics["trial/seconds"] == pytest.approx(done.seconds)
    assert steps_of(client, run.info.run_id, "classify/loss") == [0, 1, 2]
    text = Path(client.download_artifacts(run.info.run_id, "experiment.yaml")).read_text()
    assert text == "seed: 0\nx:\n- 1\n"
    assert [f.path for f in client.list_artifacts(run.info.run_id, "figures")] == [
        "figures/confusion.png"
    ]


def test_stages_are_named_on_their_trials_and_have_no_runs(root: Path, tmp_path: Path) -> None:
    tracker = opened(root, tmp_path / "spool")
    begin(tracker, "links")
    use = StageUse(stage="classify", key="k-links", reused=False, seconds=4.0)
    for number in range(2):
        name = f"links-{number}"
        tracker.start_trial(name, number, params={})
        reused = use.model_copy(update={"reused": number > 0})
        tracker.finish_trial(trial(trial_id=name, stages=[reused]))
    # as an earlier version queued it
    tracker._put("stage", "stage/k-links", use=use.model_dump(), params={})
    assert tracker.close(WAIT)
    client = client_of(tracker)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    used = client.search_runs([experiment], "tags.`orchestrator.stage.classify` = 'k-links'")
    runs = {run.info.run_name: run for run in used}
    assert set(runs) == {"trial 000", "trial 001"}, "all trials that used the result"
    first, second = runs["trial 000"].data, runs["trial 001"].data
    assert first.metrics["seconds/classify"] == 4.0
    assert "seconds/classify" not in second.metrics
    assert [first.tags["orchestrator.reused"], second.tags["orchestrator.reused"]] == [
        "",
        "classify",
    ]
    assert client.search_runs([experiment], "tags.`orchestrator.kind` = 'stage'") == []


def test_every_run_has_its_origin_and_dataset(root: Path, tmp_path: Path) -> None:
    record = make_record(tmp_path)
    record.environment = {"git": "8d5ef1c+changes", "torch": "2.15.0"}
    record.data = {
        "source": f"folder:{tmp_path}/flowers",
        "source_digest": "5d41" * 16,
        "protocol_hash": "beef",
        "class_counts": [9, 4],
    }
    tracker = opened(root, tmp_path / "spool")
    origin = origin_of(record)
    tracker.start_sweep("origin", params={}, tags={}, experiment={}, origin=origin)
    tracker.start_trial("origin-0", 0, params={})
    tracker.start_trial("origin-0-seed-1", 0, params={}, name="finalist 000 seed 1")
    assert tracker.close(WAIT)
    client = client_of(tracker)
    runs = [*runs_of(client, "origin"), *runs_of(client, "origin", "sweep")]
    assert {run.info.run_name for run in runs} == {"origin", "trial 000", "finalist 000 seed 1"}
    for run in runs:
        tags = run.data.tags
        assert tags["mlflow.source.git.commit"] == "8d5ef1c+changes"
        assert tags["mlflow.source.name"] == "orchestrator sweep"
        assert tags["orchestrator.data_digest"] == "5d41" * 16
        assert tags["orchestrator.protocol_hash"] == "beef"
        assert tags["orchestrator.environment.torch"] == "2.15.0"
        [used] = client.get_run(run.info.run_id).inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("flowers", "5d41" * 4)
        assert str(tmp_path) not in json.dumps(used.dataset.to_dictionary())
        assert json.loads(used.dataset.profile) == {"class_counts": [9, 4]}


def test_the_experiment_is_of_models_not_of_agents(root: Path) -> None:
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    former = client.create_experiment("former")
    chosen = client.create_experiment("chosen", tags={"mlflow.experimentKind": "genai_development"})
    for name in ("kinds", "former", "chosen"):
        ensure_experiment(client, name, root)
    kinds = [
        client.get_experiment(found).tags["mlflow.experimentKind"]
        for found in (ensure_experiment(client, "kinds", root), former, chosen)
    ]
    assert kinds == ["custom_model_development"] * 2 + ["genai_development"]


def test_connecting_waits_for_the_first_trial_to_end(root: Path, tmp_path: Path) -> None:
    tracker = opened(root, tmp_path / "spool")
    begin(tracker, "patient")
    tracker.start_trial("first", 0, params={})
    time.sleep(2.5)
    assert tracker.run_id(SWEEP) is None
    tracker.finish_trial(trial(trial_id="first", stages=[]))
    deadline = time.monotonic() + WAIT
    while tracker.run_id("first") is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert tracker.run_id("first") is not None
    assert tracker.close(WAIT)


@pytest.mark.parametrize(
    ("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAIL", "FAILED")]
)
def test_state_of_a_trial_becomes_a_status(
    root: Path, tmp_path: Path, state: str, status: str
) -> None:
    tracker = opened(root, tmp_path / "spool")
    begin(tracker, f"state-{state}")
    tracker.start_trial("one", 0, params={})
    tracker.finish_trial(trial(trial_id="one", state=state, error="why", stages=[]))
    assert tracker.close(WAIT)
    run = client_of(tracker).get_run(tracker.run_id("one"))
    assert run.info.status == status
    assert run.data.tags["orchestrator.state"] == state
    assert run.data.tags["orchestrator.error"] == "why"


def test_second_start_adopts_runs_and_ends_what_was_left_running(
    root: Path, tmp_path: Path
) -> None:
    first = opened(root, tmp_path / "spool")
    begin(first, "again")
    first.start_trial("done", 0, params={"a": 1})
    first.finish_trial(trial(trial_id="done", stages=[]))
    first.start_trial("resumed", 1, params={"a": 2})
    first.start_trial("lost", 2, params={"a": 3})
    assert first.close(WAIT)

    second = opened(root, tmp_path / "spool")
    begin(second, "again")
    assert second.flush(WAIT)
    client = client_of(second)
    status = {r.data.tags["orchestrator.trial_id"]: r.info.status for r in runs_of(client, "again")}
    assert status == {"done": "FINISHED", "resumed": "KILLED", "lost": "KILLED"}
    second.start_trial("resumed", 1, params={"a": 5, "b": 1})
    assert second.flush(WAIT)
    assert second.run_id("resumed") == first.run_id("resumed")
    run = client.get_run(second.run_id("resumed"))
    assert run.info.status == "RUNNING"
    assert run.data.params == {"a": "2", "b": "1"}
    assert run.data.tags["orchestrator.changed.a"] == "5"
    assert second.close(WAIT)
    assert second.run_id(SWEEP) == first.run_id(SWEEP)
    assert len(runs_of(client, "again")) == 3


def test_names_and_values_of_any_kind_are_taken(root: Path, tmp_path: Path) -> None:
    tracker = opened(root, tmp_path / "spool")
    tracker.start_sweep("it's; odd", params={"p@q": "x" * 9000, "none": None}, tags={})
    metrics = {"m@x": math.nan, "inf": math.inf, "low": -math.inf, "int": 3}
    tracker.start_trial("o'clock", 0, params={f"p{i}": i for i in range(230)})
    tracker.log_history("o'clock", [{"epoch": i, **metrics} for i in range(700)])
    assert tracker.close(WAIT)
    client = client_of(tracker)
    sweep = client.get_run(tracker.run_id(SWEEP))
    assert len(sweep.data.params["p_q"]) == 5000
    assert sweep.data.params["none"] == "None"
    run = client.get_run(tracker.run_id("o'clock"))
    assert len(run.data.params) == 230
    assert steps_of(client, run.info.run_id, "m_x") == list(range(700))
    assert math.isnan(run.data.metrics["m_x"])
    assert run.data.metrics["int"] == 3
    assert not (tmp_path / "spool" / "refused.jsonl").exists()


def test_entry_that_is_refused_for_good_is_set_aside(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = opened(root, tmp_path / "spool")
    begin(tracker, "refused")
    tracker.start_trial("gone", 0, params={})
    assert tracker.flush(WAIT)
    client_of(tracker).delete_run(tracker.run_id("gone"))
    tracker.log_history("gone", [{"loss": 1.0}])
    tracker.start_trial("next", 1, params={})
    assert tracker.close(WAIT)
    assert "refused an entry" in caplog.text
    assert '"run": "gone"' in (tmp_path / "spool" / "refused.jsonl").read_text()
    assert tracker.run_id("next")


def test_entry_that_fails_again_and_again_does_not_hold_back_the_others(
    root: Path, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    entry = {"sweep": "stuck", "time": 1000, "run": "t"}
    start = {**entry, "op": "start", "name": "t", "params": {}, "tags": {}, "texts": {}}
    damaged = {**entry, "op": "metrics", "rows": [["no time, no step"]]}
    finish = {**entry, "op": "finish", "status": "COMPLETE", "metrics": {"a": 1.0}}
    lines = [start, damaged, {**finish, "tags": {}, "stages": {"classify": "k-stuck"}}]
    (spool / "entries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tracker = opened(root, spool)
    assert tracker.close(WAIT)
    (run,) = runs_of(client_of(tracker), "stuck")
    assert run.data.metrics == {"a": 1.0}
    assert "no time, no step" in (spool / "refused.jsonl").read_text()


def test_host_load_is_sampled(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.tracking.tracker.SAMPLE_SECONDS", 0.05)
    tracker = opened(root, tmp_path / "spool")
    begin(tracker, "load")
    time.sleep(0.5)
    tracker.finish_sweep()
    assert tracker.close(WAIT)
    metrics = client_of(tracker).get_run(tracker.run_id(SWEEP)).data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    assert (
        len(
            steps_of(client_of(tracker), tracker.run_id(SWEEP), "system/cpu_utilization_percentage")
        )
        > 1
    )


def test_embedded_database_is_made_by_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.tracking.tracker import Tracker\n"
        "root = Path(sys.argv[1])\n"
        "tracker = Tracker.open(None, root, 'x', root / 'spool')\n"
        "tracker.start_sweep('s', params={}, tags={})\n"
        "tracker.start_trial('t', 0, params={})\n"
        "assert tracker.close(120), 'did not arrive'\n"
        "assert 'mlflow' not in sys.modules, 'the driver pays for the import'\n"
        "print(tracker.run_id('t'))"
    )
    free = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        timeout=240,
        env=free,
        capture_output=True,
        text=True,
    )
    (run_id,) = ended.stdout.splitlines()
    assert ended.stderr == ""
    client = MlflowClient(tracking_uri(None, tmp_path))
    assert client.get_run(run_id).info.run_name == "trial 000"
    experiment = client.get_experiment_by_name("x")
    assert experiment.artifact_location == (tmp_path / "artifacts").as_uri()


def test_address_comes_from_the_command_line_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri("http://other:1", tmp_path) == "http://other:1"
    assert tracking_uri(None, tmp_path) == "http://tracker:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


class Server:
    """A real ``mlflow server`` on loopback that can be killed and started again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.root}/mlflow.db"]
        command += ["--artifacts-destination", str(self.root / "served")]
        with (self.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise TimeoutError((self.root / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    server = Server(root)
    yield server
    server.kill()


@contextmanager
def nothing_sent_by_this_thread() -> Iterator[None]:
    """Fail if the calling thread opens a connection: whoever logs must not wait for a server."""
    me, connect = threading.current_thread(), socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert threading.current_thread() is not me, "logging waits for the server"
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.mark.slow
def test_server_that_dies_gets_everything_once_when_it_is_back(
    server: Server, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    tracker = opened(root, tmp_path / "spool", server.uri)
    begin(tracker, "served")
    tracker.start_trial("a", 0, params={"lr": 0.1})
    tracker.log_history("a", [{"epoch": e, "loss": float(e)} for e in range(3)])
    assert tracker.flush(WAIT)

    for epoch in range(3, 8):  # killed while entries are under way
        tracker.log_history("a", [{"epoch": epoch, "loss": float(epoch)}])
    server.kill()
    down_at = time.time()
    with nothing_sent_by_this_thread():
        for epoch in range(8, 12):
            tracker.log_history("a", [{"epoch": epoch, "loss": float(epoch), "nan": math.nan}])
        tracker.log_files("a", {"f.png": b"\x89PNG"}, path="figures")
        tracker.start_trial("b", 1, params={})
    assert not tracker.flush(1)
    assert not tracker.close(8)
    assert caplog.text.count("does not answer") == 1

    up_at = time.time()
    server.start()
    second = opened(root, tmp_path / "spool", server.uri)
    begin(second, "served")
    second.finish_trial(trial(trial_id="a", stages=[]))
    assert second.close(WAIT)
    client = client_of(second)
    runs = {r.data.tags["orchestrator.trial_id"]: r for r in runs_of(client, "served")}
    assert set(runs) == {"a", "b"}
    assert runs["b"].info.status == "KILLED"
    history = client.get_metric_history(runs["a"].info.run_id, "loss")
    assert sorted(m.step for m in history) == list(range(12))
    late = [m.timestamp / 1000 for m in history if m.step >= 8]
    assert all(down_at - 1 <= stamp <= up_at for stamp in late), "replayed with other times"
    assert steps_of(client, runs["a"].info.run_id, "nan") == [8, 9, 10, 11]
    assert [f.path for f in client.list_artifacts(runs["a"].info.run_id, "figures")] == [
        "figures/f.png"
    ]
    assert len(runs_of(client, "served", "sweep")) == 1
    assert not (tmp_path / "spool" / "files").exists()


def test_entries_sent_twice_are_recorded_once(root: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    tracker = opened(root, spool)
    begin(tracker, "twice")
    tracker.start_trial("t", 0, params={"a": 1})
    tracker.log_history("t", [{"epoch": e, "loss": 1.0} for e in range(5)])
    tracker.finish_trial(trial(trial_id="t", stages=[]))
    assert tracker.flush(WAIT)
    entries = (spool / "entries.jsonl").read_bytes()
    assert tracker.close(WAIT)
    (spool / "entries.jsonl").write_bytes(entries)  # as if no acknowledgement had been kept
    again = opened(root, spool)
    assert again.close(WAIT)
    client = client_of(tracker)
    [run] = runs_of(client, "twice")
    assert run.info.status == "FINISHED"
    assert steps_of(client, run.info.run_id, "loss") == [0, 1, 2, 3, 4]
    assert len(runs_of(client, "twice", "sweep")) == 1


def test_a_finalist_that_is_logged_again_has_every_value_once(root: Path, tmp_path: Path) -> None:
    rows = [{"epoch": e, "update/head/loss": 1.0 / e} for e in (1, 2, 3)]
    for time_ in range(2):  # the same finalist, by a sweep that goes on after a kill
        tracker = opened(root, tmp_path / f"spool{time_}")
        begin(tracker, "logged again")
        tracker.start_trial("f-seed-1", 0, params={})
        more = rows if time_ else rows[:2]  # the kill came before the history was whole
        tracker.log_history("f-seed-1", more, once=True)
        entry = trial(trial_id="f-seed-1", stages=[], metrics={"evaluate/x": 0.5})
        tracker.finish_trial(entry, once=True)
        tracker.finish_sweep(metrics={"best": 0.5}, step=3)
        assert tracker.close(WAIT)
    client = client_of(tracker)
    [run] = runs_of(client, "logged again")
    assert steps_of(client, run.info.run_id, "update/head/loss") == [1, 2, 3]
    assert steps_of(client, run.info.run_id, "evaluate/x") == [0]
    assert steps_of(client, run.info.run_id, "trial/seconds") == [0]
    [sweep] = runs_of(client, "logged again", "sweep")
    assert steps_of(client, sweep.info.run_id, "best") == [3]
