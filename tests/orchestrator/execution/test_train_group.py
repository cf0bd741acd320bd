"""Worker groups under a sweep that stops trials early: it ends, and nothing is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util import placement_group_table

from orchestrator.execution.cluster import (
    TRIAL_CPUS,
    WORKER_CPUS,
    concurrency,
    connect_ray,
    trial_resources,
)
from orchestrator.execution.execute import execute
from orchestrator.execution.group_owner import GroupFailedError
from orchestrator.execution.store_executor import trains
from orchestrator.options import SweepOptions
from orchestrator.records import SweepRecord
from orchestrator.store.stage_store import StageStore
from tests.helpers import ROOT
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import plan
from trainables.settings import assign

TWO_CPUS = {"CPU": 2.0}


def groups_left() -> list[str]:
    states = (group["state"] for group in placement_group_table().values())
    return [state for state in states if state != "REMOVED"]


def options(**given: Any) -> SweepOptions:
    return SweepOptions(train_workers=2, **given)


def test_one_group_at_a_time_on_two_cpus() -> None:
    assert concurrency(options(), TWO_CPUS) == 1
    assert concurrency(options(), {"CPU": 9.0}) == 5
    assert trial_resources(options()) == {"cpu": TRIAL_CPUS, "gpu": 0.0}
    assert trial_resources(SweepOptions()) == {"cpu": 1.0, "gpu": 0.0}


def test_trials_that_wait_leave_room_for_the_workers() -> None:
    asked = options(concurrency=4)
    assert concurrency(asked, TWO_CPUS) == 4
    assert 4 * TRIAL_CPUS + 2 * WORKER_CPUS <= 2


def test_a_group_that_never_fits_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="a worker group beside it"):
        concurrency(SweepOptions(train_workers=3), TWO_CPUS)
    with pytest.raises(ConfigError, match="GPU"):
        concurrency(options(gpus_per_trial=1.0), {"CPU": 8.0, "GPU": 1.0})


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, ["classify"]),
        ({"update.mode": "full"}, ["classify", "update"]),
        ({"pretrain.method": "simclr", "classify.training.epochs": 0}, ["pretrain"]),
    ],
)
def test_only_what_trains_a_trunk_gets_a_group(changes: dict[str, Any], stages: list[str]) -> None:
    steps = plan(assign(Experiment(), changes))
    assert [step.stage for step in steps if trains(step)] == stages


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep with two workers and ASHA; its own last words say what is left on the cluster."""
    storage = tmp_path_factory.mktemp("runs")
    code = (
        "import sys, time, json, ray\n"
        "from orchestrator.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end\n"
        "from ray.util import placement_group_table\n"
        "end = time.time() + 90\n"
        "def left():\n"
        "    return [p for p in placement_group_table().values() if p['state'] != 'REMOVED']\n"
        "while left() and time.time() < end:\n    time.sleep(1)\n"
        "print('LEFT', len(left()), len(placement_group_table()),\n"
        "      round(ray.available_resources()['CPU']), round(ray.cluster_resources()['CPU']))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        environment.pop(name, None)
    done = subprocess.run(
        [
            sys.executable, "-c", code, "sweep", "--storage", str(storage), "--name", "groups",
            "--trials", "4", "--train-workers", "2", "--concurrency", "2", "--scheduler", "asha",
            "--space", "long_tail", "--finalists", "1", "--num-seeds", "1", "--no-promote",
            "--set", "classify.training.epochs=12", "--set", "update.training.epochs=2",
            "--set", "score.threshold={known_recall: {keep: 0.8}}",
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return storage, done.stdout


@pytest.mark.slow
def test_the_sweep_ends_and_no_placement_group_is_left(finished: tuple[Path, str]) -> None:
    words = next(line for line in finished[1].splitlines() if line.startswith("LEFT")).split()
    left, ever, free, cpus = map(int, words[1:])
    assert left == 0
    assert ever >= 1
    assert free == cpus


@pytest.mark.slow
def test_trials_ended_and_results_are_stored(finished: tuple[Path, str]) -> None:
    storage = finished[0]
    record = SweepRecord.load(storage / "sweeps" / "groups")
    states = [trial.state for trial in record.trials]
    assert len(states) == 4
    assert set(states) <= {"COMPLETE", "PRUNED"}, [t.error for t in record.trials]
    assert "COMPLETE" in states
    assert "PRUNED" in states  # the scheduler stopped one while its group trained
    computed = [u.key for t in record.trials for u in t.stages if not u.reused]
    assert len(computed) == len(set(computed))
    for trial in record.trials:
        for use in trial.stages:
            if use.stage == "classify":
                assert [row["epoch"] for row in use.history] == list(range(1, 13))
                folder = storage / "stages" / use.stage / use.key
                assert (folder / "manifest.json").is_file()


@pytest.mark.slow
def test_a_loss_that_explodes_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    experiment = assign(
        load_experiment(ROOT / "experiments" / "digits.yaml"),
        {"classify.training.lr": 1e30, "classify.training.epochs": 2},
    )
    connect_ray(None, workers=2)
    try:
        store = StageStore(str(tmp_path))
        with pytest.raises(GroupFailedError, match=r"NonFiniteLossError: classify: loss is"):
            execute(experiment, store, Context(), workers=2)
        end = time.monotonic() + 60  # the group goes after the word about it
        while (left := groups_left()) and time.monotonic() < end:
            time.sleep(0.5)
        assert left == []
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_group_goes_on_from_where_a_shorter_one_ended(tmp_path: Path) -> None:
    base = assign(
        load_experiment(ROOT / "experiments" / "digits.yaml"),
        {"classify.training.epochs": 4, "update.training.epochs": 1},
    )
    connect_ray(None, workers=2)
    try:
        whole = execute(base, StageStore(str(tmp_path / "whole")), Context(), workers=2)
        store = StageStore(str(tmp_path / "rungs"))
        execute(assign(base, {"classify.training.until": 2}), store, Context(), workers=2)
        found = execute(base, store, Context(), workers=2)
        (use,) = (use for use in found.uses if use.stage == "classify")
        assert (use.reused, use.continued) == (False, 2)
        assert [row["epoch"] for row in use.history] == [1, 2, 3, 4]
        for name, tensor in whole.artifacts["backbone"].state.items():
            assert torch.equal(found.artifacts["backbone"].state[name], tensor), name
    finally:
        ray.shutdown()
