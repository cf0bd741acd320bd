"""Ctrl-C late in a sweep: with the last trials running, and during the final round."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestrator.execution.ctrl_c import INTERRUPTED
from orchestrator.records import SweepRecord
from tests.helpers.killed_sweeps import PATIENCE, sweep, trials, wait_for

pytestmark = pytest.mark.slow

ALL = ("--trials", "2", "--seeds", "2", "--scheduler", "none")


def output(storage: Path) -> str:
    return (storage / "output.txt").read_text(encoding="utf-8")


def test_ctrl_c_with_the_last_trials_running_runs_no_finalist(tmp_path: Path) -> None:
    with sweep(tmp_path, *ALL) as process:
        assert wait_for(
            lambda: (
                len(found := trials(tmp_path)) == 2
                and any(not t.state.is_finished() for t in found)
            ),
            process,
        )
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == INTERRUPTED, output(tmp_path)
    record = SweepRecord.load(tmp_path / "sweeps" / "killed")
    assert "RUNNING" not in {trial.state for trial in record.trials}
    assert record.finalists == []
    assert "resume" in output(tmp_path)


def test_the_first_ctrl_c_of_the_final_round_ends_it_and_the_next_run_finishes(
    tmp_path: Path,
) -> None:
    done = tmp_path / "sweeps" / "killed" / "models"
    with sweep(tmp_path, *ALL) as process:
        assert wait_for(lambda: output(tmp_path).count(" complete ") == 2, process)
        assert wait_for(
            lambda: all(t.state.is_finished() for t in trials(tmp_path)) and not done.exists(),
            process,
        )
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == INTERRUPTED, output(tmp_path)
    assert SweepRecord.load(tmp_path / "sweeps" / "killed").finalists == []
    with sweep(tmp_path, *ALL) as process:
        assert process.wait(PATIENCE) == 0, output(tmp_path)
    record = SweepRecord.load(tmp_path / "sweeps" / "killed")
    assert [finalist.seeds for finalist in record.finalists] == [[1, 2]] * len(record.finalists)
    assert record.selection is not None
    assert len(record.trials) == 2
