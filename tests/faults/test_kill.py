"""End the driver at random moments, by SIGKILL or Ctrl-C; the same command goes on."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from orchestrator.records import SweepRecord
from orchestrator.schedulers import FILE as RUNGS
from orchestrator.search import superseded
from orchestrator.sweep import INTERRUPTED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRIALS = 6
EPOCHS = 5
PATIENCE = 240.0  # for one run of the command, on a loaded machine
COMMAND = (
    sys.executable, "orchestrator/sweep.py", "--name", "killed", "--trials", str(TRIALS),
    "--scheduler", "asha", "--finalists", "1", "--seeds", "1", "--no-promote",
    "--set", f"classify.training.epochs={EPOCHS}", "--set", "update.training.epochs=2",
    "--set", "score.threshold={known_recall: {keep: 0.8}}",
)  # fmt: skip


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The driver and every process that it, or its Ray, started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(process.pid)
        return [driver, *driver.children(recursive=True)]
    return []


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the driver first, by the signal that nobody can catch, then what it started."""
    members = family(process)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait(30)
    psutil.wait_procs(members, timeout=30)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C: the terminal signals the driver and all that it started; it ends by itself."""
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == INTERRUPTED


ENDINGS = (kill, interrupt, kill)


@contextlib.contextmanager
def sweep(storage: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        environment.pop(name, None)
    with (storage / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [*COMMAND, *more, "--storage", str(storage)],
            cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            kill(process)


def trials(storage: Path) -> list[FrozenTrial]:
    """All trials of the study, those included that were started again under another number."""
    path = storage / "sweeps" / "killed" / "study.journal"
    if not path.is_file():
        return []
    try:  # Optuna's own reader: ours would mend a line that the driver is writing
        backend = JournalStorage(JournalFileBackend(str(path)))
        found = optuna.load_study(study_name=None, storage=backend).get_trials(deepcopy=False)
    except (KeyError, ValueError):  # the study, or its last line, is not written yet
        return []
    return [t for t in found if t.state is not TrialState.WAITING]


def counted(storage: Path) -> list[FrozenTrial]:
    found = trials(storage)
    lost = superseded(found)
    return [trial for trial in found if trial.number not in lost]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Wait until something holds; ``False`` if the process ended before."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.2)
    raise AssertionError("nothing happened for too long")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def kills(storage: Path) -> list[list[tuple[int, str]]]:
    """Run the command, end it early several times, then let it end; states seen after each."""
    draw, seen = random.Random(3), []
    for end_early in ENDINGS:
        goal = sum(t.state.is_finished() for t in counted(storage)) + 1

        def far_enough(goal: int = goal) -> bool:
            found = counted(storage)
            ended = sum(t.state.is_finished() for t in found)
            return ended >= goal if seen else len(found) > 0

        with sweep(storage) as process:
            if not wait_for(far_enough, process):
                break
            time.sleep(draw.uniform(0.0, 2.0))
            end_early(process)
        seen.append([(t.number, t.state.name) for t in trials(storage)])
    with sweep(storage) as process:
        assert process.wait(PATIENCE) == 0, (storage / "output.txt").read_text()[-4000:]
    return seen


@pytest.fixture(scope="module")
def record(kills: list[Any], storage: Path) -> SweepRecord:
    return SweepRecord.load(storage / "sweeps" / "killed")


def test_it_was_killed_in_the_middle(kills: list[list[tuple[int, str]]]) -> None:
    assert len(kills) >= 2
    assert any(state == "RUNNING" for states in kills for _, state in states)


def test_ctrl_c_says_how_to_go_on(kills: list[Any], storage: Path) -> None:
    assert "same command with --name killed" in (storage / "output.txt").read_text()


def test_no_trial_is_lost_or_counted_twice(record: SweepRecord, storage: Path) -> None:
    in_study = counted(storage)
    assert len(in_study) == TRIALS
    assert all(trial.state.is_finished() for trial in in_study)
    numbers = [trial.number for trial in record.trials]
    assert len(numbers) == len(set(numbers))
    assert sorted(numbers) == [trial.number for trial in in_study]
    states = {trial.number: trial.state for trial in record.trials}
    assert states == {trial.number: trial.state.name for trial in in_study}


def test_a_trial_that_ended_before_a_kill_kept_its_number_and_state(
    kills: list[list[tuple[int, str]]], record: SweepRecord
) -> None:
    states = {trial.number: trial.state for trial in record.trials}
    for seen in kills:
        for number, state in seen:
            if state in ("COMPLETE", "PRUNED"):
                assert states[number] == state


def test_parameters_and_metrics_are_all_there(record: SweepRecord, storage: Path) -> None:
    in_study = {trial.number: trial for trial in counted(storage)}
    for trial in record.trials:
        assert len(trial.params) >= len(in_study[trial.number].params) > 0
        if trial.state == "COMPLETE":
            assert {use.stage for use in trial.stages} >= {"pretrain", "classify", "evaluate"}
            assert trial.metrics


def test_what_was_interrupted_was_tried_again(
    kills: list[list[tuple[int, str]]], storage: Path
) -> None:
    everything = {trial.number: trial for trial in trials(storage)}
    running = {n for seen in kills for n, state in seen if state == "RUNNING"}
    retried = {t.user_attrs["retry_of"] for t in everything.values() if "retry_of" in t.user_attrs}
    for number in running:
        assert everything[number].user_attrs.get("superseded") is True
    assert running <= retried


def test_every_epoch_is_in_the_history_once(record: SweepRecord) -> None:
    for trial in record.trials:
        for use in trial.stages:
            if use.stage == "classify":
                assert [row["epoch"] for row in use.history] == list(range(1, EPOCHS + 1))


def test_rungs_are_kept(record: SweepRecord, storage: Path) -> None:
    import json

    rungs = json.loads((storage / "sweeps" / "killed" / RUNGS).read_text())["rungs"]
    first = rungs["0:1"]
    different = {str(sorted(trial.params.items())) for trial in record.trials}
    assert len(first) == len(different)  # each recipe was judged once, before or after a kill


def test_no_run_is_left_running_and_each_trial_has_one(record: SweepRecord, storage: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(record.tracking_uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids, max_results=1000)
    assert [run.info.run_name for run in runs if run.info.status == "RUNNING"] == []
    of_trials: dict[int, list[str]] = {}
    for run in runs:
        if run.data.tags.get("orchestrator.role") != "finalist":
            number = run.data.tags.get("orchestrator.number")
            if number is not None:
                of_trials.setdefault(int(number), []).append(run.info.run_id)
    assert all(len(found) == 1 for found in of_trials.values()), of_trials
    assert {trial.number for trial in record.trials} <= set(of_trials)


def test_no_claim_lease_or_draft_is_left(record: SweepRecord, storage: Path) -> None:
    assert list((storage / "leases").rglob("*.lease")) == []
    assert [p.name for p in (storage / "sweeps" / "killed").glob("*.draft")] == []
