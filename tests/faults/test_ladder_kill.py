"""Kill a ladder while a promotion trains; the same command goes on, rung by rung."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from orchestrator.records import SweepRecord, TrialRecord
from tests.helpers.killed_sweeps import PATIENCE, ROOT, counted, kill, trials, wait_for

pytestmark = pytest.mark.slow

TRIALS = 7
EPOCHS = 24  # rungs 3, 6, 12, 24
COMMAND = (
    sys.executable, "orchestrator/sweep.py", "--name", "killed", "--trials", str(TRIALS),
    "--scheduler", "ladder", "--space", "long_tail", "--finalists", "1", "--num-seeds", "1",
    "--no-promote", "--concurrency", "1",
    "--set", f"classify.training.epochs={EPOCHS}", "--set", "update.training.epochs=1",
    "--set", "score.threshold={known_recall: {keep: 0.8}}",
)  # fmt: skip


def start(storage: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        environment.pop(name, None)
    with (storage / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [*COMMAND, "--storage", str(storage)],
            cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def climbing(storage: Path) -> bool:
    """Say whether a promoted trial runs."""
    return any(t.state is TrialState.RUNNING and "promoted_from" in t.user_attrs
               for t in trials(storage))  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepRecord, Path]:
    """Kill the sweep during a promotion, then let it end."""
    storage = tmp_path_factory.mktemp("runs")
    for last in (False, True):
        process = start(storage)
        try:
            if last:
                assert process.wait(PATIENCE) == 0, (storage / "output.txt").read_text()[-4000:]
            else:
                assert wait_for(lambda: climbing(storage), process)
        finally:
            if process.poll() is None:
                kill(process)
    return SweepRecord.load(storage / "sweeps" / "killed"), storage


def until(trial: TrialRecord) -> int:
    return int(trial.rung.get("classify.training.until") or EPOCHS)


def test_no_trial_is_lost_and_the_top_is_reached(record: tuple[SweepRecord, Path]) -> None:
    sweep, storage = record
    in_study = {t.number: t for t in counted(storage)}
    assert len(in_study) == len(sweep.trials) == TRIALS
    assert {t.number: t.state for t in sweep.trials} == {
        number: trial.state.name for number, trial in in_study.items()
    }
    assert {until(t) for t in sweep.trials} == {3, 6, 12, 24}
    for trial in sweep.trials:
        assert trial.state == ("COMPLETE" if until(trial) == EPOCHS else "PRUNED")
        assert trial.metrics["evaluate/accuracy/balanced"] > 0


def test_what_was_promoted_before_the_kill_is_promoted_once(
    record: tuple[SweepRecord, Path],
) -> None:
    everything = trials(record[1])
    lost = [t for t in everything if t.user_attrs.get("superseded")]
    assert any("promoted_from" in t.user_attrs for t in lost)
    for trial in lost:
        (again,) = (t for t in everything if t.user_attrs.get("retry_of") == trial.number)
        assert again.params == trial.params
        for name in ("rung", "promoted_from"):
            assert again.user_attrs.get(name) == trial.user_attrs.get(name)
    sources = [t.user_attrs.get("promoted_from") for t in counted(record[1])]
    promotions = [source for source in sources if source is not None]
    assert len(promotions) == len(set(promotions))


def test_a_promotion_takes_over_what_the_rung_below_trained(
    record: tuple[SweepRecord, Path],
) -> None:
    below = {3: 0, 6: 3, 12: 6, 24: 12}
    for trial in record[0].trials:
        (use,) = (use for use in trial.stages if use.stage == "classify")
        assert [row["epoch"] for row in use.history] == list(range(1, until(trial) + 1))
        assert use.reused or use.continued == below[until(trial)]


def test_the_page_says_how_far_each_trial_trained(record: tuple[SweepRecord, Path]) -> None:
    page = (record[1] / "sweeps" / "killed" / "report.html").read_text(encoding="utf-8")
    for epochs in (3, 6, 12):
        assert f"pruned after {epochs} epochs" in page
    (winner, *_) = record[0].finalists
    assert "classify.training.until" not in winner.params


def test_no_state_is_left_to_go_on_from(record: tuple[SweepRecord, Path]) -> None:
    assert list(record[1].glob("stages/classify/*/manifest.json"))
    assert not list(record[1].glob("states/classify/*/*"))
