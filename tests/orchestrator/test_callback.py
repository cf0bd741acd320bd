"""What the driver notes as trials come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
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
    yield SweepCallback(record, Experiment(), tmp_path, tracker, display)
    tracker.close(timeout=0.1)


def ended(number: int, *, reused: bool) -> Any:
    """Return what Tune shows of a complete trial."""
    use = StageUse(stage="classify", key=f"k{number}", reused=reused, seconds=2.0)
    inside = {METRIC: 0.5, "evaluate/other": 0.25, "stage_uses": [use.model_dump()]}
    return SimpleNamespace(
        trial_id=f"ray{number}",
        config={"trial_number": number, "params": {}},
        error_file=None,
        last_result={METRIC: 0.5, "completed": 1.0, "seconds": 2.5, **pack(inside)},
    )


def test_record_has_what_a_trial_packed(callback: SweepCallback, record: SweepRecord) -> None:
    callback.on_trial_complete(1, [], ended(0, reused=False))
    (entry,) = record.trials
    assert (entry.state, entry.seconds) == ("COMPLETE", 2.5)
    assert entry.metrics == {METRIC: 0.5, "evaluate/other": 0.25}
    assert [use.key for use in entry.stages] == ["k0"]


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
