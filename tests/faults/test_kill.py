"""End the driver at random moments, by SIGKILL or Ctrl-C; the same command goes on."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records import SweepRecord
from orchestrator.search.schedulers import FILE as RUNGS
from tests.helpers.killed_sweeps import (
    ENDINGS,
    EPOCHS,
    PATIENCE,
    TRIALS,
    counted,
    sweep,
    trials,
    wait_for,
)

pytestmark = pytest.mark.slow


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
