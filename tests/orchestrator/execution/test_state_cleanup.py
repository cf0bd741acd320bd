"""A finished ladder removes the training states that nobody will go on from."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.execution.state_cleanup import discard_ended
from orchestrator.execution.training_states import TrainingStates
from orchestrator.locking.sweep_lock import lock_sweep
from orchestrator.records import SweepRecord, TrialRecord
from orchestrator.store.filesystem import LocalBackend
from tests.helpers.factory import make_record


def course(result: str) -> str:
    return f"states/classify/course-{result}"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with three states, and a finished sweep whose trials left two of them."""
    storage = tmp_path / "runs"
    for result in ("own", "shared", "foreign"):
        scratch = tmp_path / result
        scratch.mkdir()
        (scratch / "classify.000002.checkpoint").write_text(result)
        TrainingStates(course(result), 2, result).keep(LocalBackend(storage), scratch)
    return storage


def sweep(storage: Path, name: str, results: list[str], **more: object) -> SweepRecord:
    """Save a sweep whose only trials were cut short, with these results."""
    record = make_record(storage / "unused", trials=6).model_copy(
        update={
            "trials": [
                TrialRecord.model_validate(
                    {
                        "trial_id": f"trial-{number:04d}",
                        "number": number,
                        "state": "PRUNED",
                        "params": {},
                        "rung": {"classify.training.until": 2},
                        "stages": [
                            {"stage": "classify", "key": key, "reused": False, "seconds": 1.0}
                        ],
                    }
                )
                for number, key in enumerate(results)
            ],
            **more,
        }
    )
    record.save(storage / "sweeps" / name)
    return record


def left(storage: Path) -> list[str]:
    return sorted(p.name.removeprefix("course-") for p in storage.glob("states/classify/*") if
                  any(p.iterdir()))  # fmt: skip


def discard(storage: Path, record: SweepRecord) -> int:
    return discard_ended(record, storage=str(storage), folder=storage / "sweeps" / "done")


def test_what_the_sweep_left_is_removed_and_nothing_else(storage: Path) -> None:
    record = sweep(storage, "done", ["own", "shared"])
    assert discard(storage, record) == 2
    assert left(storage) == ["foreign"]
    assert discard(storage, record) == 0


def test_a_sweep_that_is_not_finished_keeps_what_it_may_go_on_from(storage: Path) -> None:
    sweep(storage, "other", ["shared"], finalists=[])
    assert discard(storage, sweep(storage, "done", ["own", "shared"])) == 1
    assert left(storage) == ["foreign", "shared"]


def test_a_finished_sweep_beside_it_keeps_nothing_unless_it_runs_again(storage: Path) -> None:
    folder = storage / "sweeps" / "other"
    sweep(storage, "other", ["shared"])
    record = sweep(storage, "done", ["own", "shared"])
    code = (
        "import time; from pathlib import Path\n"
        "from orchestrator.locking.sweep_lock import lock_sweep\n"
        f"lock = lock_sweep(Path({str(folder)!r})); print('ready', flush=True); time.sleep(100)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == "ready"
        assert discard(storage, record) == 1
        assert left(storage) == ["foreign", "shared"]
    finally:
        driver.kill()
        driver.communicate()
    lock_sweep(folder).release()  # asking whether it runs left no lock behind
    assert discard(storage, record) == 1


def test_a_sweep_without_a_ladder_reads_nothing(tmp_path: Path) -> None:
    record = make_record(tmp_path, trials=3)
    assert discard_ended(record, storage="nowhere://x", folder=tmp_path) == 0
