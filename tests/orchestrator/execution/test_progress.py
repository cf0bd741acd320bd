"""What runs tells stage, epoch, loss and time left, to the driver too."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution import progress, single
from orchestrator.execution.progress import ProgressMeter, RunProgress, Ticker, epochs_of
from tests.helpers import ROOT
from trainables.experiment import load_experiment


def recipe(*sets: str) -> Any:
    return load_experiment("experiments/digits.yaml", sets)


def test_a_meter_knows_stage_epoch_loss_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    meter = ProgressMeter(recipe("classify.training.epochs=10"), "trial 4")
    assert meter.now.text() == "trial 4"
    meter.begin("pretrain")
    meter.begin("classify")
    assert meter.now == RunProgress("trial 4", "classify")
    meter.report({"classify/loss": 2.0, "classify/lr": 0.1}, 1)
    assert meter.now == RunProgress("trial 4", "classify", 1, 10, 2.0, None)
    now = 130.0
    meter.report({"classify/loss": 1.5, "classify/lr": 0.1}, 4)
    assert meter.now == RunProgress("trial 4", "classify", 4, 10, 1.5, 60.0)
    now = 131.0
    meter.report({"update/head/loss": 3.0}, 1)  # another training counts anew
    assert meter.now.seconds_left is None
    assert (meter.now.stage, meter.now.epoch) == ("update", 1)
    meter.begin("evaluate")
    assert meter.now.text() == "trial 4: evaluate"


def test_epochs_are_those_that_a_rung_and_later_phases_leave() -> None:
    assert (
        epochs_of(recipe("classify.training.epochs=30", "classify.training.until=4"), "classify")
        == 4
    )
    then = "classify.then=[{epochs: 7, lr: 0.1}]"
    assert epochs_of(recipe("classify.training.epochs=30", then), "classify") == 37
    assert epochs_of(recipe(), "evaluate") == 0


def test_a_function_that_fails_is_not_called_again_and_disturbs_nobody() -> None:
    calls: list[int] = []

    def act() -> None:
        calls.append(1)
        raise RuntimeError("the head of Ray is gone")

    with Ticker(act, 0.01):
        time.sleep(0.3)
    assert calls == [1]


def test_a_run_in_this_process_writes_lines_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    text = single.run_recipe(
        recipe("classify.training.epochs=3", "update.training.epochs=2", "name=mine"), str(tmp_path)
    )
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("mine: classify, epoch ") for line in lines), lines
    assert text.startswith("{"), "standard output is for the metrics"


PUBLISHED = """
import json, os, time
from orchestrator.execution.cluster import connect_ray
connect_ray("local")
import ray
from orchestrator.execution import progress

@ray.remote
def work(label, seconds):
    from orchestrator.execution.progress import ProgressMeter, published
    from trainables.experiment import Experiment
    meter = ProgressMeter(Experiment(), label)
    meter.begin("classify")
    with published(meter, "monday"):
        meter.report({"classify/loss": 0.5}, 3)
        time.sleep(seconds)

tasks = [work.remote("trial 1", 9.0), work.remote("trial 2", 0.5)]
seen, end = [], time.monotonic() + 60
while not seen and time.monotonic() < end:
    seen = progress.read_published("monday")
    time.sleep(0.2)
other = progress.read_published("mon")
ray.get(tasks)
after = progress.read_published("monday")
print(json.dumps([[p.text() for p in found] for found in (seen, other, after)]))
ray.shutdown()
"""


def test_the_driver_reads_what_a_worker_tells_until_it_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHED],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        '[["trial 1: classify, epoch 3 of 30, loss 0.5"], [], []]'
    )
