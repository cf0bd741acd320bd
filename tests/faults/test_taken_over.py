"""Stop a whole sweep for too long; another driver takes it over; the first one wakes."""

import signal
from pathlib import Path

import pytest

from orchestrator.locking import sweep_drivers
from orchestrator.locking.sweep_lock import lock_sweep
from orchestrator.records import SweepRecord
from orchestrator.search.journal import SweepJournal
from orchestrator.tracking.tracking_queue import QueueWriter
from tests.helpers.killed_sweeps import PATIENCE, counted, sweep, wait_for

pytestmark = pytest.mark.slow


def test_a_sweep_that_wakes_after_it_was_taken_over_stops_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_drivers, "TAKEOVER_SECONDS", 3.0)
    folder = tmp_path / "sweeps" / "killed"

    def at_work() -> bool:
        return any(t.state.is_finished() for t in counted(tmp_path))

    with sweep(tmp_path) as process:
        assert wait_for(at_work, process)
        process.send_signal(signal.SIGSTOP)
        lock = lock_sweep(folder)
        SweepJournal(folder / "study.journal")
        spool = QueueWriter(folder / "spool")
        record = SweepRecord.load(folder)
        record.save(folder)
        names = ("sweep.json", "study.journal", "rungs.json", "study.json", "spool/entries.jsonl")
        before = {name: (folder / name).read_bytes() for name in names}
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == 2
        assert {name: (folder / name).read_bytes() for name in names} == before
        spool.close()
        lock.release()
    lines = (tmp_path / "output.txt").read_text().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == [
        f"error: sweep 'killed' was taken over by {lock.driver}: this driver "
        f"(process {process.pid}) gave no sign of life for too long, and stops"
    ]
    assert not any("Traceback" in line for line in lines)
