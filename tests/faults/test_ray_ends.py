"""Ray that ends under a sweep, or does not start: one line, and the sweep goes on later."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil
import pytest

from orchestrator.records import SweepRecord
from tests.helpers.killed_sweeps import PATIENCE, TRIALS, counted, family, sweep, wait_for

pytestmark = pytest.mark.slow

ALL = ("--scheduler", "none", "--concurrency", "1")


def errors(storage: Path) -> list[str]:
    lines = (storage / "output.txt").read_text(encoding="utf-8").splitlines()
    assert not any("Traceback" in line for line in lines)
    assert len(lines) < 30
    return [line for line in lines if line.startswith("error: ")]


def test_a_driver_whose_ray_was_killed_says_so_and_goes_on(tmp_path: Path) -> None:
    def one_ended() -> bool:
        return any(t.state.is_finished() for t in counted(tmp_path))

    with sweep(tmp_path, *ALL) as process:
        assert wait_for(one_ended, process)
        for member in family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                if member.name() == "raylet":
                    member.kill()
        assert process.wait(PATIENCE) == 1
    (line,) = errors(tmp_path)
    assert line.startswith("error: Ray ended while the sweep ran (its process raylet)")
    assert "the same command with --name killed goes on" in line
    assert not (tmp_path / "sweeps" / "killed" / "driver").exists()
    with sweep(tmp_path, *ALL) as process:
        assert process.wait(PATIENCE) == 0, (tmp_path / "output.txt").read_text()[-4000:]
    record = SweepRecord.load(tmp_path / "sweeps" / "killed")
    assert [t.state for t in record.trials] == ["COMPLETE"] * TRIALS
    assert len(counted(tmp_path)) == TRIALS


def test_a_ray_that_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "RAY_TMPDIR", "/dev/null/ray")  # it cannot make its folder
    with sweep(tmp_path, *ALL) as process:
        assert process.wait(PATIENCE) == 1
    (line,) = errors(tmp_path)
    assert line.startswith("error: Ray did not start (")
    assert "the same command tries it again" in line
    assert list((tmp_path / "sweeps").rglob("sweep.json")) == []
