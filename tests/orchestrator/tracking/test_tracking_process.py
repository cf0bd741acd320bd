"""The sending process ends with the driver, and entries survive the end of either."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from orchestrator.tracking.tracker import SWEEP, Tracker

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

WAIT = 120.0
NOBODY = "http://someone:secret@127.0.0.1:9"  # no server listens at that port


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow database that exists already: migrations take seconds."""
    address = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    MlflowClient(address).search_experiments()
    return address


def opened(folder: Path, uri: str) -> Tracker:
    return Tracker.open(uri, folder, "sent", folder / "spool", patience=0.0)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def senders(folder: Path) -> list[psutil.Process]:
    """Return the living processes that send this spool."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        mine = str(folder / "spool") in (process.info["cmdline"] or [])
        if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def losses(uri: str, tracker: Tracker) -> list[tuple[int, float]]:
    history = MlflowClient(uri).get_metric_history(tracker.run_id(SWEEP), "loss")
    return sorted((metric.step, metric.value) for metric in history)


def log(tracker: Tracker, *epochs: int) -> None:
    for epoch in epochs:
        tracker.log_history(SWEEP, [{"epoch": epoch, "loss": float(epoch)}])


def test_a_killed_driver_takes_its_sender_along_and_the_next_start_sends_the_rest(
    uri: str, tmp_path: Path
) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from orchestrator.tracking.tracker import SWEEP, Tracker\n"
        "folder = Path(sys.argv[2])\n"
        "tracker = Tracker.open(sys.argv[1], folder, 'sent', folder / 'spool', patience=0.0)\n"
        "tracker.start_sweep('killed', params={}, tags={})\n"
        "assert tracker.flush(120)\n"
        "for epoch in range(50):\n"
        "    tracker.log_history(SWEEP, [{'epoch': epoch, 'loss': float(epoch)}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, uri, str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=WAIT).returncode == -signal.SIGKILL
    until(lambda: not senders(tmp_path))
    again = opened(tmp_path, uri)
    again.start_sweep("killed", params={}, tags={})
    assert again.close(WAIT)
    assert losses(uri, again) == [(epoch, float(epoch)) for epoch in range(50)]
    assert not senders(tmp_path)


def test_a_killed_sender_is_started_again_and_loses_nothing(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = opened(tmp_path, uri)
    tracker.start_sweep("revived", params={}, tags={})
    log(tracker, *range(20))
    assert tracker.flush(WAIT)
    [first] = senders(tmp_path)
    log(tracker, *range(20, 40))
    first.kill()
    log(tracker, *range(40, 60))
    assert tracker.flush(WAIT)
    [second] = senders(tmp_path)
    assert second.pid != first.pid
    assert tracker.close(WAIT)
    assert losses(uri, tracker) == [(epoch, float(epoch)) for epoch in range(60)]
    assert caplog.text.count("the sending process ended (status -9") == 1


def test_a_sender_that_cannot_be_started_is_said_once_and_tried_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    tracker = opened(tmp_path, uri)
    tracker.start_sweep("late", params={}, tags={})
    log(tracker, 0)
    until(lambda: "the sending process ended" in caplog.text)
    assert not tracker.flush(2.0)
    monkeypatch.setattr(sys, "executable", real)
    assert tracker.close(WAIT)
    assert losses(uri, tracker) == [(0, 0.0)]
    assert caplog.text.count("the sending process ended") == 1


def test_a_tracker_that_is_down_is_said_once_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = opened(tmp_path, NOBODY)
    tracker.start_sweep("down", params={}, tags={})
    until(lambda: "does not answer" in caplog.text)
    log(tracker, *range(5))
    assert not tracker.flush(3.0)
    assert not tracker.close(0.1)
    assert not senders(tmp_path)
    assert caplog.text.count("does not answer") == 1
    assert (tmp_path / "spool" / "entries.jsonl").read_text().count('"loss"') == 5


def test_a_request_that_hangs_is_given_up_when_the_sweep_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        tracker = opened(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker.start_sweep("hangs", params={}, tags={})
        call, _ = silent.accept()
        with call:
            assert not tracker.close(0.1)
    assert not senders(tmp_path)
    Tracker.open(NOBODY, tmp_path, "sent", tmp_path / "spool").close(0.1)  # it was let go


def test_the_sender_is_out_of_reach_of_ctrl_c_and_shows_no_password(tmp_path: Path) -> None:
    tracker = opened(tmp_path, NOBODY)
    until(lambda: senders(tmp_path))
    [sender] = senders(tmp_path)
    assert os.getpgid(sender.pid) != os.getpgid(0)
    assert os.getsid(sender.pid) != os.getsid(0)
    assert "secret" not in " ".join(sender.cmdline())
    tracker.close(0.1)
