"""What the driver notes as trials come and go."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError
from rich.console import Console

from orchestrator.callback import SweepCallback
from orchestrator.packed import pack
from orchestrator.progress import SweepDisplay
from orchestrator.records import Objective, StageUse, SweepRecord
from orchestrator.tracking import Tracker
from trainables.experiment import Experiment

METRIC = "evaluate/accuracy/balanced"


@pytest.fixture
def record() -> SweepRecord:
    return SweepRecord(
        name="noted",
        study="full",
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
    yield SweepCallback(record, Experiment(), tmp_path, tracker, display, lambda number: number < 9)
    tracker.close(timeout=0.1)


def ended(number: int, *, reused: bool) -> Any:
    """Return what Tune shows of a complete trial."""
    use = StageUse(stage="classify", key=f"k{number}", reused=reused, seconds=2.0)
    inside = {METRIC: 0.5, "evaluate/other": 0.25, "stage_uses": [use.model_dump()]}
    return SimpleNamespace(
        trial_id=f"ray{number}",
        config={"trial_number": number, "params": {}},
        error_file=None,
        pickled_error_file=None,
        last_result={METRIC: 0.5, "completed": 1.0, "seconds": 2.5, **pack(inside)},
    )


def test_record_has_what_a_trial_packed(callback: SweepCallback, record: SweepRecord) -> None:
    callback.on_trial_complete(1, [], ended(0, reused=False))
    (entry,) = record.trials
    assert (entry.state, entry.seconds) == ("COMPLETE", 2.5)
    assert entry.metrics == {METRIC: 0.5, "evaluate/other": 0.25}
    assert [use.key for use in entry.stages] == ["k0"]


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
    monkeypatch.setattr("orchestrator.callback.time.monotonic", lambda: now[0])
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
