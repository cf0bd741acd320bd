"""A sweep shows what runs: a line a minute on a pipe, epoch and recipe on a terminal."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.execution.progress import RunProgress
from orchestrator.records import SweepRecord
from orchestrator.trials import progress
from orchestrator.trials.progress import RunningDisplay, SweepDisplay
from tests.helpers.factory import make_record

TOLD = RunProgress("trial 1", "classify", 12, 30, 0.4123, 95.0)


@pytest.fixture
def record(tmp_path: Path) -> SweepRecord:
    found = make_record(tmp_path, trials=4)
    for trial in found.trials[1:]:
        trial.state = "RUNNING"
    found.trials[1].params = {"classify.training.lr": 0.1, "classify.loss": "ldam"}
    found.trials[2].params = {}
    return found


def told() -> Sequence[RunProgress]:
    stale = RunProgress("trial 0", "evaluate")  # of a worker that was killed
    return [stale, TOLD]


def test_a_pipe_gets_a_line_with_stage_epoch_loss_and_time_left(
    record: SweepRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    out = io.StringIO()
    with SweepDisplay(record, 9, Console(file=out, width=140), told):
        time.sleep(0.5)
    line, *more = out.getvalue().splitlines()
    assert line == (
        "running: trial 1: classify, epoch 12 of 30, loss 0.412, about 2 min left; trial 2; trial 3"
    )
    assert more, "and again"


def test_finalists_tell_their_progress_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    out, found = io.StringIO(), [RunProgress("finalist 3, seed 1, test", "update", 2, 20, 1.0)]
    with RunningDisplay(Console(file=out, width=140), lambda: found):
        time.sleep(0.25)
        found.clear()
        time.sleep(1.2)
    lines = out.getvalue().splitlines()
    assert lines[0] == "running: finalist 3, seed 1, test: update, epoch 2 of 20, loss 1"
    assert lines[-1] == "running: nothing tells its progress yet"


def test_a_terminal_shows_epoch_and_recipe_inside_a_trial(record: SweepRecord) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with SweepDisplay(record, 9, console, told):
        time.sleep(0.1)
    screen = out.getvalue()
    assert "trial 1: classify, epoch 12 of 30, loss 0.412, about 2 min left" in screen
    assert "classify.loss=ldam classify.training.lr=0.1" in screen
    assert "the base recipe" in screen
    assert "trial 0: evaluate" not in screen


def test_a_long_recipe_is_cut_at_the_width_of_the_terminal(record: SweepRecord) -> None:
    record.trials[1].params = {f"classify.x{i}": "\x1b[2J" for i in range(99)}
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, color_system=None)
    with console.capture() as captured:
        console.print(SweepDisplay(record, 9, console, told).render())
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 60
    assert "\x1b[2J" not in captured.get()
