"""Kill the process that runs a trial: the recipe is tried again in its place, the sweep ends."""

import contextlib
import subprocess
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from orchestrator.records import SweepRecord
from tests.helpers.killed_sweeps import (
    PATIENCE,
    TRIALS,
    counted,
    family,
    kill,
    sweep,
    trials,
    wait_for,
)

pytestmark = pytest.mark.slow


def training(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The actors that run trials, by the title that Ray gives a busy worker."""
    found = []
    for member in family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(member.cmdline()).startswith("ray::ImplicitFunc"):
                found.append(member)
    return found


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill the worker of the second trial; the driver is left alone."""
    storage = tmp_path_factory.mktemp("runs")

    def second_runs() -> bool:
        found = trials(storage)
        return len(found) > 1 and found[1].state is TrialState.RUNNING and bool(training(process))

    with sweep(storage, "--concurrency", "1") as process:
        try:
            assert wait_for(second_runs, process)
            for actor in training(process):
                actor.kill()
            assert process.wait(PATIENCE) == 0, (storage / "output.txt").read_text()[-4000:]
        finally:
            if process.poll() is None:
                kill(process)
    return storage


def test_the_recipe_is_tried_again_and_the_lost_trial_does_not_count(storage: Path) -> None:
    everything = trials(storage)
    (again,) = (trial for trial in everything if "retry_of" in trial.user_attrs)
    lost = everything[again.user_attrs["retry_of"]]
    assert lost.state is TrialState.FAIL
    assert again.user_attrs["attempt"] == 1
    assert again.params == lost.params
    assert again.state is not TrialState.FAIL
    assert len(everything) == TRIALS + 1


def test_the_record_has_what_the_study_counts(storage: Path) -> None:
    record = SweepRecord.load(storage / "sweeps" / "killed")
    in_study = {trial.number: trial.state.name for trial in counted(storage)}
    assert {trial.number: trial.state for trial in record.trials} == in_study
    assert len(in_study) == TRIALS
    assert "FAIL" not in in_study.values()
    output = (storage / "output.txt").read_text()
    assert "the trial's worker died; a new trial runs the recipe again" in output
