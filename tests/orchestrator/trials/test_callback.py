"""What the driver notes as trials come and go."""

from __future__ import annotations

import json
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError
from rich.console import Console

from orchestrator.execution.infrastructure import InfrastructureError
from orchestrator.records import Objective, StageUse, SweepRecord
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.callback import SweepCallback
from orchestrator.trials.interrupts import Interrupts
from orchestrator.trials.progress import SweepDisplay
from orchestrator.trials.trial import encode_result
from trainables.experiment import Experiment

METRIC = "evaluate/accuracy/balanced"


@pytest.fixture
def record() -> SweepRecord:
    return SweepRecord(
        name="noted",
        space="full",
        started="2026-01-01T00:00:00",
        experiment=Experiment().model_dump(mode="json"),
        objectives=[Objective(metric=METRIC, mode="max")],
        environment={},
    )


@pytest.fixture
def callback(record: SweepRecord, tmp_path: Path) -> Iterator[SweepCallback]:
    # nobody listens at port 9: what is tracked stays in the spool
    tracker = Tracker.open("http://127.0.0.1:9", tmp_path, "noted", tmp_path / "spool")
    display = SweepDisplay(record, 9, Console(quiet=True))

    def try_again(number: int, counts: bool) -> bool:
        return number < 9 or not counts

    yield SweepCallback(
        record, Experiment(), tmp_path, tracker, display, try_again, annotated, Interrupts()
    )
    tracker.close(timeout=0.1)


ANNOTATED: list[tuple[str, str]] = []


def annotated(ray_trial: str, *, mlflow_run: str) -> None:
    ANNOTATED.append((ray_trial, mlflow_run))


def ended(number: int, *, reused: bool) -> Any:
    """Return what Tune shows of a complete trial."""
    use = StageUse(stage="classify", key=f"k{number}", reused=reused, seconds=2.0)
    inside = {METRIC: 0.5, "evaluate/other": 0.25, "stage_uses": [use.model_dump()]}
    return SimpleNamespace(
        trial_id=f"ray{number}",
        config={"trial_number": number, "params": {}},
        error_file=None,
        pickled_error_file=None,
        last_result={METRIC: 0.5, "completed": 1.0, "seconds": 2.5, **encode_result(inside)},
    )


def test_record_has_what_a_trial_packed(callback: SweepCallback, record: SweepRecord) -> None:
    callback.on_trial_complete(1, [], ended(0, reused=False))
    (entry,) = record.trials
    assert (entry.state, entry.seconds) == ("COMPLETE", 2.5)
    assert entry.metrics == {METRIC: 0.5, "evaluate/other": 0.25}
    assert [use.key for use in entry.stages] == ["k0"]


def test_the_record_lists_trials_by_number_in_whatever_order_tune_announces_them(
    callback: SweepCallback, record: SweepRecord
) -> None:
    for number in (1, 0, 3, 2):
        callback.on_trial_start(1, [], ended(number, reused=False))
    for number in (2, 1, 3, 0):
        callback.on_trial_complete(1, [], ended(number, reused=False))
    assert [trial.number for trial in record.trials] == [0, 1, 2, 3]
    assert [use.key for trial in record.trials for use in trial.stages] == ["k0", "k1", "k2", "k3"]


def failed(number: int, error: Exception, folder: Path) -> Any:
    """Return what Tune shows of a trial that ended with this error."""
    trial = ended(number, reused=False)
    trial.pickled_error_file = str(folder / f"{number}.pkl")
    Path(trial.pickled_error_file).write_bytes(pickle.dumps(error))
    return trial


@pytest.mark.parametrize(
    ("number", "error", "kept"),
    [
        (5, ActorDiedError(), []),
        (5, RayTaskError("train", "its traceback", NodeDiedError("host lost")), []),
        (5, RayTaskError("train", "its traceback", ValueError("loss is NaN")), [5]),
        (9, ActorDiedError(), [9]),  # not tried again: it was lost too often
    ],
)
def test_a_trial_whose_worker_died_leaves_the_record_to_the_one_in_its_place(
    callback: SweepCallback,
    record: SweepRecord,
    tmp_path: Path,
    number: int,
    error: Exception,
    kept: list[int],
) -> None:
    callback.on_trial_error(1, [], failed(number, error, tmp_path))
    assert [trial.number for trial in record.trials] == kept
    assert all(trial.state == "FAIL" for trial in record.trials)
    assert SweepRecord.load(tmp_path).trials == record.trials


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/runs/stages/x"),
        RayTaskError("train", "its traceback", OSError(122, "Disk quota exceeded")),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError("6400 requested and 128 written"),  # NumPy's, without a number
    ],
)
def test_a_full_disk_ends_the_search_and_its_trial_is_tried_again(
    callback: SweepCallback, record: SweepRecord, tmp_path: Path, error: Exception
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Tune's handler ends its loop
    try:
        with callback.interrupts as interrupts:
            interrupts.listen()
            callback.on_trial_error(1, [], failed(9, error, tmp_path))  # lost often, not by itself
            assert interrupts.seen
            with pytest.raises(InfrastructureError):
                interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)
    assert record.trials == []
    assert SweepRecord.load(tmp_path).trials == []


def computes(callback: SweepCallback) -> None:
    callback.on_trial_complete(1, [], ended(5, reused=False))


def raises(callback: SweepCallback) -> None:
    callback.on_trial_error(1, [], ended(5, reused=True))


@pytest.mark.parametrize("last", [computes, raises])
def test_a_trial_that_the_study_cannot_give_back_is_saved_at_once(
    callback: SweepCallback, last: Callable[[SweepCallback], None], tmp_path: Path
) -> None:
    for number in range(5):  # whole results that were there before: saved once a second
        callback.on_trial_complete(1, [], ended(number, reused=True))
    last(callback)
    assert [t.number for t in SweepRecord.load(tmp_path).trials] == [0, 1, 2, 3, 4, 5]


def test_trials_that_only_reuse_are_saved_at_most_once_a_second(
    callback: SweepCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[Path] = []
    monkeypatch.setattr(SweepRecord, "save", lambda _, folder: saves.append(folder))
    now = [100.0]
    monkeypatch.setattr("orchestrator.trials.callback.time.monotonic", lambda: now[0])
    for number in range(12):
        callback.on_trial_complete(1, [], ended(number, reused=True))
        now[0] += 0.25
    assert len(saves) == 3


def spooled(tmp_path: Path) -> list[tuple[str, str]]:
    lines = (tmp_path / "spool" / "entries.jsonl").read_text().splitlines()
    return [(entry["op"], entry["run"]) for entry in map(json.loads, lines)]


def test_tracker_hears_of_a_trial_after_its_actor_has_the_work(
    callback: SweepCallback, record: SweepRecord, tmp_path: Path
) -> None:
    callback.on_trial_start(1, [], ended(0, reused=True))
    assert [trial.state for trial in record.trials] == ["RUNNING"]
    assert spooled(tmp_path) == []
    callback.on_step_end(1, [])
    callback.on_step_end(2, [])
    assert spooled(tmp_path) == [("start", "trial-0000")]


def test_tracker_hears_of_a_beginning_before_the_end(
    callback: SweepCallback, tmp_path: Path
) -> None:
    callback.on_trial_start(1, [], ended(0, reused=True))
    callback.on_trial_complete(1, [], ended(0, reused=True))
    assert [op for op, run in spooled(tmp_path) if run == "trial-0000"] == ["start", "finish"]


def queued(folder: Path, op: str, run: str) -> list[dict[str, Any]]:
    lines = (folder / "spool" / "entries.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry for entry in entries if (entry["op"], entry["run"]) == (op, run)]


def test_the_run_of_the_sweep_has_the_best_value_so_far(
    callback: SweepCallback, record: SweepRecord, tmp_path: Path
) -> None:
    record.objectives.append(Objective(metric="evaluate/other", mode="min"))
    for number, (value, other) in enumerate([(0.5, 0.4), (0.7, 0.6), (0.6, 0.1)]):
        trial = ended(number, reused=False)
        inside = {METRIC: value, "evaluate/other": other}
        trial.last_result = {**inside, "completed": 1.0, **encode_result(inside)}
        callback.on_trial_complete(1, [], trial)
    rows = [row for entry in queued(tmp_path, "metrics", "sweep") for row in entry["rows"]]
    assert [step for _, step, _ in rows] == [1, 2, 3]
    assert [row[f"best/{METRIC}"] for _, _, row in rows] == [0.5, 0.7, 0.7]
    assert [row["best/evaluate/other"] for _, _, row in rows] == [0.4, 0.4, 0.1]
    assert [row["trials/complete"] for _, _, row in rows] == [1, 2, 3]


def test_a_curve_is_logged_once_by_the_first_trial_that_used_it(
    callback: SweepCallback, tmp_path: Path
) -> None:
    for number in (0, 1):
        trial = ended(number, reused=number == 1)
        use = StageUse(
            stage="classify",
            key="same",
            reused=number == 1,
            seconds=2.0,
            history=[{"epoch": 1.0, "classify/loss": 2.0}],
        )
        inside = {METRIC: 0.5, "stage_uses": [use.model_dump()]}
        trial.last_result = {METRIC: 0.5, "completed": 1.0, **encode_result(inside)}
        callback.on_trial_complete(1, [], trial)
    [curve] = queued(tmp_path, "metrics", "trial-0000")
    assert [row[1:] for row in curve["rows"]] == [[1, {"classify/loss": 2.0}]]
    assert queued(tmp_path, "metrics", "trial-0001") == []


def test_a_running_trial_is_linked_in_the_study_when_its_run_arrives(
    callback: SweepCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    ANNOTATED.clear()
    runs: dict[str, str] = {}
    monkeypatch.setattr(callback.tracker, "run_id", runs.get)
    callback.on_trial_start(1, [], ended(0, reused=False))
    callback.on_trial_start(1, [], ended(1, reused=False))
    callback.on_step_end(1, [])
    assert ANNOTATED == []
    runs["trial-0001"] = "abc"
    callback.on_step_end(2, [])
    callback.on_step_end(3, [])
    assert ANNOTATED == [("ray1", "abc")]
    callback.on_trial_complete(4, [], ended(0, reused=False))
    runs["trial-0000"] = "late"
    callback.on_step_end(5, [])
    assert ANNOTATED == [("ray1", "abc")], "the study takes no note of an ended trial"
