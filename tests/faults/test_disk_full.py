"""A full disk in the middle of a sweep: one line, the record stays, and the sweep goes on later."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from orchestrator.records import SweepRecord
from tests.helpers.killed_sweeps import PATIENCE, TRIALS, counted, sweep, wait_for

pytestmark = pytest.mark.slow


def test_a_driver_that_cannot_write_keeps_its_record_and_loses_no_trial(tmp_path: Path) -> None:
    """The driver alone may not write larger files, which is as if its disk were full."""
    folder = tmp_path / "sweeps" / "killed"

    def two_ended() -> bool:
        return sum(t.state.is_finished() for t in counted(tmp_path)) >= 2

    with sweep(tmp_path, "--scheduler", "none", "--concurrency", "1") as process:
        assert wait_for(two_ended, process)
        size = (folder / "study.journal").stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 64, resource.RLIM_INFINITY))
        assert process.wait(PATIENCE) == 1
    output = (tmp_path / "output.txt").read_text(encoding="utf-8")
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "file too large" in line
    assert "the same command with --name killed goes on" in line
    assert "Traceback" not in output
    ended = [t.number for t in SweepRecord.load(folder).trials if t.state == "COMPLETE"]
    assert ended[:2] == [0, 1]
    assert list(tmp_path.rglob("*draft*")) == []
    assert list((tmp_path / "leases").rglob("*.lease")) == []

    with sweep(tmp_path, "--scheduler", "none", "--concurrency", "1") as process:
        assert process.wait(PATIENCE) == 0, (tmp_path / "output.txt").read_text()[-4000:]
    record = SweepRecord.load(folder)
    assert [t.state for t in record.trials] == ["COMPLETE"] * TRIALS
    assert {t.number: t.state for t in record.trials} == {
        t.number: t.state.name for t in counted(tmp_path)
    }
    assert record.finalists
