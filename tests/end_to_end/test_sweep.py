"""`make sweep` in miniature: a real Ray, a real study, a real tracker and registry."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records import SweepRecord
from orchestrator.registry import Registry

ROOT = Path(__file__).parents[2]
QUICK = (
    "--set", "classify.training.epochs=4",
    "--set", "update.training.epochs=4",
    "--set", "score.threshold={known_recall: {keep: 0.8}}",
)  # fmt: skip


def sweep(storage: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "orchestrator/sweep.py", "--storage", str(storage), "--name", name]
    return subprocess.run(
        [*command, *QUICK, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(storage: Path) -> subprocess.CompletedProcess[str]:
    arguments = ("--trials", "5", "--finalists", "1", "--seeds", "2")
    done = sweep(storage, "first", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def record(first: subprocess.CompletedProcess[str], storage: Path) -> SweepRecord:
    return SweepRecord.load(storage / "sweeps" / "first")


def test_every_trial_completed_and_names_its_stages(record: SweepRecord) -> None:
    assert [t.state for t in record.trials] == ["COMPLETE"] * 5
    assert sorted(t.number for t in record.trials) == list(range(5))
    names = {use.stage for trial in record.trials for use in trial.stages}
    assert names == {
        "pretrain", "classify", "extract", "rebalance", "score", "discover", "update", "evaluate",
    }  # fmt: skip


def test_each_stage_result_was_computed_once(record: SweepRecord, storage: Path) -> None:
    uses = [use for trial in record.trials for use in trial.stages]
    computed = [use.key for use in uses if not use.reused]
    assert len(computed) == len(set(computed))
    assert set(computed) == {use.key for use in uses}
    for use in uses:
        assert (storage / "stages" / use.stage / use.key / "manifest.json").is_file()


def test_finalist_and_baseline_were_tested_on_two_seeds(record: SweepRecord) -> None:
    finalist, *others = record.finalists
    assert finalist.seeds == [0, 1]
    assert "trial-0000" in [f.trial_id for f in (finalist, *others)]
    accuracy = finalist.metrics["evaluate/accuracy/balanced"]
    assert accuracy.low <= accuracy.mean <= accuracy.high
    assert len(accuracy.values) == 2
    assert "validation/evaluate/update/accuracy" in finalist.metrics


def test_the_champion_is_in_the_registry_and_can_be_loaded(
    record: SweepRecord, tmp_path: Path
) -> None:
    assert record.promotion is not None
    assert record.promotion.promoted, record.promotion.gates
    registry = Registry(record.tracking_uri)
    assert registry.alias("longtail", "champion") == record.promotion.version
    folder = registry.download("longtail", "champion", tmp_path)
    assert (folder / "experiment.yaml").is_file()
    assert (folder / "updated_classifier" / "tensors.safetensors").is_file()


def test_the_tracker_has_parent_trials_stages_and_links_both_ways(record: SweepRecord) -> None:
    import mlflow

    client = mlflow.MlflowClient(record.tracking_uri)
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert all(run.info.status == "FINISHED" for run in runs)
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == record.run_id]
    trials = [r for r in children if "orchestrator.ray_trial" in r.data.tags]
    tag = "orchestrator.stage_key"
    keys = {run.data.tags[tag]: run for run in runs if tag in run.data.tags}
    assert len(trials) == 5
    used = {use.key for trial in record.trials for use in trial.stages}
    assert used <= set(keys)
    trial = trials[0]
    linked = json.dumps(trial.data.tags)
    assert sum(run.info.run_id in linked for run in keys.values()) == 8
    trunk = next(use.key for use in record.trials[0].stages if use.stage == "classify")
    history = client.get_metric_history(keys[trunk].info.run_id, "classify/loss")
    assert [point.step for point in history] == [1, 2, 3, 4]


def test_the_report_is_one_file_that_says_how_to_reproduce(
    record: SweepRecord, storage: Path
) -> None:
    page = (storage / "sweeps" / "first" / "report.html").read_text(encoding="utf-8")
    assert "python -m trainables" in page or "orchestrator run" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_the_output_names_the_next_steps(first: subprocess.CompletedProcess[str]) -> None:
    for words in ("[5/5]", "stage results:", "is now champion", "report", "make ui"):
        assert words in first.stdout
    assert "Traceback" not in first.stderr


def test_a_second_sweep_reuses_every_stage_that_is_the_same(
    record: SweepRecord, storage: Path
) -> None:
    done = sweep(storage, "second", "--trials", "1", "--finalists", "1", "--seeds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    again = SweepRecord.load(storage / "sweeps" / "second")
    (baseline,) = again.trials  # the base recipe is the first trial of every sweep
    assert all(use.reused for use in baseline.stages)
    assert baseline.metrics == next(t.metrics for t in record.trials if t.number == 0)
    assert again.promotion is not None
    assert again.promotion.version != record.promotion.version  # type: ignore[union-attr]


def test_the_same_command_again_adds_nothing(record: SweepRecord, storage: Path) -> None:
    arguments = ("--trials", "5", "--finalists", "1", "--seeds", "2")
    done = sweep(storage, "first", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep 'first' is complete" in done.stdout
    again = SweepRecord.load(storage / "sweeps" / "first")
    assert again.promotion == record.promotion
    assert [t.model_dump() for t in again.trials] == [t.model_dump() for t in record.trials]


def test_another_recipe_under_the_same_name_is_refused(record: SweepRecord, storage: Path) -> None:
    done = sweep(storage, "first", "--set", "seed=7")
    assert done.returncode == 2
    assert "sweep 'first' exists with another recipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_one_line(storage: Path) -> None:
    done = sweep(storage, "wrong", "--set", "classify.los=ldam")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "did you mean 'loss'?" in done.stderr
    assert not (storage / "sweeps" / "wrong").exists()
