"""`make sweep` in miniature: a real Ray, a real study, a real tracker and registry."""

import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records import SweepRecord, winner
from orchestrator.registry.versions import Registry
from tests.helpers import ROOT
from trainables.inference.card import read_card

QUICK = (
    "--set", "classify.training.epochs=4",
    "--set", "update.training.epochs=4",
    "--set", "score.threshold={known_recall: {keep: 0.8}}",
)  # fmt: skip


def sweep(storage: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # what a user has set does not count
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
    arguments = ("--trials", "5", "--finalists", "1", "--num-seeds", "2")
    done = sweep(storage, "first", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def record(first: subprocess.CompletedProcess[str], storage: Path) -> SweepRecord:
    return SweepRecord.load(storage / "sweeps" / "first")


def test_every_trial_completed_and_names_its_stages(record: SweepRecord) -> None:
    assert [t.state for t in record.trials] == ["COMPLETE"] * 5
    assert [t.number for t in record.trials] == list(range(5))
    names = {use.stage for trial in record.trials for use in trial.stages}
    assert names == {
        "pretrain", "classify", "extract", "rebalance", "score", "discover", "update", "rescore",
        "extract_held_out", "evaluate",
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
    assert finalist.seeds == [1, 2]  # the search had seed 0
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
    assert (folder / "classifier" / "tensors.safetensors").is_file()
    card, best = read_card(folder), winner(record)
    assert card.served == best.served
    stored = registry.metrics("longtail", record.promotion.version)
    assert stored["test/accuracy/open"] == best.metrics["test/accuracy/open"].mean
    assert not any("/first/" in name or "/updated/" in name for name in stored)


def test_the_tracker_has_the_sweep_its_trials_and_finalists(record: SweepRecord) -> None:
    import mlflow

    client = mlflow.MlflowClient(record.tracking_uri)
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert all(run.info.status == "FINISHED" for run in runs)
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == record.run_id]
    trials = [r for r in children if "orchestrator.ray_trial" in r.data.tags]
    assert len(trials) == 5
    finalists = {r.info.run_name for r in children} - {r.info.run_name for r in trials}
    numbers = {trial.trial_id: trial.number for trial in record.trials}
    assert finalists == {
        f"finalist {numbers[f.trial_id]:03d} seed {seed}"
        for f in record.finalists
        for seed in (1, 2)
    }
    assert len(runs) == 1 + 5 + len(finalists)
    assert {t.trial_id: t.run_id for t in record.trials} == {
        r.data.tags["orchestrator.trial_id"]: r.info.run_id for r in trials
    }
    first = next(r for r in trials if r.data.tags["orchestrator.trial_id"] == "trial-0000")
    for use in record.trials[0].stages:
        assert first.data.tags[f"orchestrator.stage.{use.stage}"] == use.key
    # the curve of a result that several trials use is on the run of the first one that ended
    key = first.data.tags["orchestrator.stage.classify"]
    sharing = [r for r in trials if r.data.tags["orchestrator.stage.classify"] == key]
    curves = [client.get_metric_history(r.info.run_id, "classify/loss") for r in sharing]
    assert [[p.step for p in curve] for curve in curves if curve] == [[1, 2, 3, 4]]
    for run in runs:
        [used] = client.get_run(run.info.run_id).inputs.dataset_inputs
        assert used.dataset.name == "digits"
        assert run.data.tags["orchestrator.data_digest"] == record.data["source_digest"]
        assert run.data.tags["mlflow.source.git.commit"] == record.environment["git"]


def test_the_run_of_the_sweep_shows_how_it_went(record: SweepRecord) -> None:
    import mlflow

    client = mlflow.MlflowClient(record.tracking_uri)
    run = client.get_run(record.run_id)
    objective = record.objectives[0].metric
    best = [m.value for m in client.get_metric_history(run.info.run_id, f"best/{objective}")]
    assert len(best) == 5
    assert best == sorted(best)
    assert run.data.metrics[f"winner/{objective}"] > 0
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files >= {"report.html", "protocol-test.json", "protocol-validation.json"}
    assert record.promotion is not None
    version = client.get_model_version("longtail", record.promotion.version)
    assert "On the test set, over seeds 1, 2" in version.description
    link = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report.html?"
    assert link in version.description


def test_the_report_is_one_file_that_says_how_to_reproduce(
    record: SweepRecord, storage: Path
) -> None:
    page = (storage / "sweeps" / "first" / "report.html").read_text(encoding="utf-8")
    assert "python -m trainables" in page or "orchestrator run" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


def test_every_result_was_computed_with_one_thread_and_says_so(
    record: SweepRecord, storage: Path
) -> None:
    facts = {"threads": "1", "wait_policy": "passive", "device": "cpu"}
    assert facts.items() <= record.environment.items()
    for use in (use for trial in record.trials for use in trial.stages):
        manifest = storage / "stages" / use.stage / use.key / "manifest.json"
        with_ = json.loads(manifest.read_text())["computed_with"]
        assert {name: with_[name] for name in ("threads", "device")} == {
            "threads": "1",
            "device": "cpu",
        }


def test_the_command_of_the_report_gives_the_recorded_figures(
    record: SweepRecord, storage: Path
) -> None:
    page = (storage / "sweeps" / "first" / "report.html").read_text(encoding="utf-8")
    written = html.unescape(page.partition("<pre>python -m trainables")[2].partition("</pre>")[0])
    done = subprocess.run(
        [sys.executable, "-m", "trainables", *shlex.split(written)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "3"},
        capture_output=True, text=True, timeout=540, check=True,
    )  # fmt: skip
    found, best = json.loads(done.stdout), winner(record)
    names = [name for name in best.metrics if name.startswith("evaluate/")]
    assert len(names) > 20
    assert {n: found[n] for n in names} == {n: best.metrics[n].values[0] for n in names}


def test_the_output_names_the_next_steps(first: subprocess.CompletedProcess[str]) -> None:
    for words in ("[5/5]", "stage results:", "is now champion", "report", "promote list"):
        assert words in first.stdout
    assert "Traceback" not in first.stderr


def test_asking_is_a_small_part_of_the_sweep(record: SweepRecord) -> None:
    assert (record.sampler, record.left_to_tpe) == ("tpe", [])
    assert 0 < record.asking_seconds < 0.05 * record.seconds


def test_a_sampler_says_what_it_leaves_to_tpe(record: SweepRecord, storage: Path) -> None:
    arguments = ("--trials", "2", "--finalists", "1", "--seeds", "1", "--no-promote")
    done = sweep(storage, "sequence", "--sampler", "qmc", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    said, _, _ = done.stdout.partition("[1/2]")
    counted = re.search(r"sampler qmc draws (\d+) of (\d+) parameters: classify.loss, disc", said)
    assert counted, said
    drawn, parameters = map(int, counted.groups())
    assert 0 < drawn < parameters
    assert "tpe draws the others" in said
    again = SweepRecord.load(storage / "sweeps" / "sequence")
    assert (again.sampler, len(again.left_to_tpe)) == ("qmc", parameters - drawn)
    page = (storage / "sweeps" / "sequence" / "report.html").read_text(encoding="utf-8")
    assert "sampler qmc" in page


def test_a_second_sweep_reuses_every_stage_that_is_the_same(
    record: SweepRecord, storage: Path
) -> None:
    done = sweep(storage, "second", "--trials", "1", "--finalists", "1", "--num-seeds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    again = SweepRecord.load(storage / "sweeps" / "second")
    (baseline,) = again.trials  # the base recipe is the first trial of every sweep
    assert all(use.reused for use in baseline.stages)
    assert baseline.metrics == next(t.metrics for t in record.trials if t.number == 0)
    assert again.promotion is not None
    assert again.promotion.version != record.promotion.version  # type: ignore[union-attr]


def test_the_same_command_again_adds_nothing(record: SweepRecord, storage: Path) -> None:
    arguments = ("--trials", "5", "--finalists", "1", "--num-seeds", "2")
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


def test_another_sampler_under_the_same_name_is_refused(record: SweepRecord, storage: Path) -> None:
    done = sweep(storage, "first", "--sampler", "random")
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "'first' was started with --sampler tpe, now it is random" in line


def test_a_wrong_setting_is_one_line(storage: Path) -> None:
    done = sweep(storage, "wrong", "--set", "classify.los=ldam")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "did you mean 'loss'?" in done.stderr
    assert not (storage / "sweeps" / "wrong").exists()


def test_a_sweep_without_a_completed_trial_fails_in_one_line(storage: Path) -> None:
    done = sweep(storage, "diverges", "--trials", "2", "--set", "classify.training.lr=1e9")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "no trial completed: 2 failed; the first error: " in errors[0]
    assert "orchestrator promote" not in done.stdout
    assert SweepRecord.load(storage / "sweeps" / "diverges").finalists == []
