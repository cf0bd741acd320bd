"""The final round when seeds or whole finalists fail: recorded, and the others are compared."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from rich.console import Console

from orchestrator.choice.selection import Answers
from orchestrator.execution.cluster import connect_ray
from orchestrator.execution.infrastructure import infrastructure_fault
from orchestrator.options import SweepOptions
from orchestrator.records import Objective, StageUse, SweepRecord, TrialRecord
from orchestrator.report.class_figures import FigureSettings, class_accuracy
from orchestrator.report.drawing import png
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.failures import Failures
from orchestrator.trials.final_round import FinalRound
from orchestrator.trials.finalists import (
    SeedRun,
    WorldRun,
    log_seeds,
    on_common_seeds,
    summarize,
)
from tests.helpers.factory import make_arrays, write_evaluation
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

METRIC = "evaluate/accuracy/balanced"


def run(seed: int) -> SeedRun:
    answers = Answers(np.array([0, 1]), *[np.zeros(2)] * 5, np.zeros(2, dtype=np.int64))
    return SeedRun(
        seed, WorldRun(seed, {METRIC: 0.5}, [], answers), WorldRun(seed, {METRIC: 0.4}, [], None)
    )


@pytest.mark.parametrize(
    ("seeds", "common"),
    [
        ({"a": [1, 2, 3], "b": [1, 3], "c": [1, 2, 3]}, {"a": [1, 3], "b": [1, 3], "c": [1, 3]}),
        ({"a": [1, 2], "b": [], "c": [1, 2]}, {"a": [1, 2], "c": [1, 2]}),
        ({"a": [1], "b": [2, 3], "c": [2, 3]}, {"b": [2, 3], "c": [2, 3]}),
        ({"a": [1], "base": [2]}, {"base": [2]}),
        ({"a": [], "b": []}, {}),
    ],
    ids=["a seed", "a finalist", "no seed in common", "the base stays", "all"],
)
def test_finalists_are_compared_on_the_seeds_that_all_have(
    seeds: dict[str, list[int]], common: dict[str, list[int]]
) -> None:
    runs = {name: [run(seed) for seed in some] for name, some in seeds.items()}
    found = on_common_seeds(runs)
    assert {name: [r.seed for r in some] for name, some in found.items()} == common


def test_a_run_has_the_curves_of_the_test_world_once(final: FinalRound, tmp_path: Path) -> None:
    history = [{"epoch": e, "update/head/loss": 0.5} for e in (1.0, 2.0)]
    validation, test = (
        StageUse(stage="update", key=key, reused=False, seconds=1.0, history=history)
        for key in ("validation", "test")
    )
    one = run(1)
    both = SeedRun(1, one.validation._replace(uses=[validation]), one.test._replace(uses=[test]))
    write_evaluation(tmp_path / "model" / "evaluation")
    folder, trial = tmp_path / "model", final.record.trials[0]
    log_seeds(final.tracker, trial, [both], "updated", folder, final.base)
    lines = (tmp_path / "spool" / "entries.jsonl").read_text().splitlines()
    (entry,) = [e for e in map(json.loads, lines) if e["op"] == "metrics"]
    assert [(step, values) for _, step, values in entry["rows"]] == [
        (1, {"update/head/loss": 0.5}),
        (2, {"update/head/loss": 0.5}),
    ]


def test_figures_in_mlflow_have_the_bands_of_the_recipe_and_names_of_classes(
    final: FinalRound, tmp_path: Path
) -> None:
    folder, trial = tmp_path / "model", final.record.trials[0]
    write_evaluation(folder / "evaluation")
    base = load_experiment("experiments/digits.yaml", ["evaluate.many_above=60"])
    assert log_seeds(final.tracker, trial, [run(1), run(2)], "updated", folder, base) == [
        "trial-0000-seed-1",
        "trial-0000-seed-2",
    ]
    lines = (tmp_path / "spool" / "entries.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    (files,) = [entry for entry in entries if entry["op"] == "files"]
    assert (files["run"], files["path"]) == ("trial-0000-seed-1", "figures")
    drawn = (tmp_path / "spool" / "files" / files["folder"] / "class_accuracy.png").read_bytes()
    arrays = make_arrays()
    accuracy, counts = arrays["class_accuracy"], arrays["class_counts"]
    known = ("0", "1", "2", "4", "5", "6", "8")  # 3, 7 and 9 play the new digits
    limits = {"many_above": 60, "few_below": base.evaluate.few_below, "bins": base.evaluate.bins}
    settings = FigureSettings(**limits, class_names=known)
    assert drawn == png(class_accuracy(accuracy, counts, settings))
    assert drawn != png(class_accuracy(accuracy, counts, FigureSettings(class_names=known)))
    assert drawn != png(class_accuracy(accuracy, counts, settings._replace(class_names=())))
    starts = {entry["name"]: entry for entry in entries if entry["op"] == "start"}
    assert list(starts) == ["finalist 000 seed 1", "finalist 000 seed 2"]
    notes = [start["tags"]["mlflow.note.content"] for start in starts.values()]
    assert [note.partition("Figures: ")[2] for note in notes] == ["here.", "on the run of seed 1."]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    if ray.is_initialized():
        ray.shutdown()
    connect_ray(None)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests
    yield
    ray.shutdown()


def diverges(seed: int) -> Any:
    raise FloatingPointError("classify: loss is nan at step 40")


def fills_the_disk(seed: int) -> Any:
    raise OSError(28, "No space left on device", "/somewhere/tensors.safetensors")


@pytest.fixture
def final(tmp_path: Path) -> Iterator[FinalRound]:
    trial = TrialRecord(trial_id="trial-0000", number=0, state="COMPLETE", params={})
    record = SweepRecord(
        name="s", space="full", started="", experiment={}, environment={}, trials=[trial],
        objectives=[Objective(metric=METRIC, mode="max")],
    )  # fmt: skip
    # nobody listens at port 9: what is tracked stays in the spool
    tracker = Tracker.open("http://127.0.0.1:9", tmp_path, "s", tmp_path / "spool")
    options = SweepOptions(storage=str(tmp_path))
    yield FinalRound(options, Experiment(), record, Console(quiet=True), tracker, tmp_path)
    tracker.close(timeout=0.1)


def test_a_seed_that_diverges_is_recorded_and_the_others_count(
    final: FinalRound, cluster: None, tmp_path: Path
) -> None:
    good, bad = ray.remote(run), ray.remote(diverges)
    pending = {"trial-0000": {1: good.remote(1), 2: bad.remote(2), 3: good.remote(3)}}
    failures = Failures(final.record, lambda line: None)
    found = final._runs(final.record.trials[0], pending, failures)
    assert [r.seed for r in found] == [1, 3]
    (failure,) = final.record.failures
    assert (failure.step, failure.trial_id, failure.seed) == ("finalist", "trial-0000", 2)
    assert failure.error == "FloatingPointError: classify: loss is nan at step 40"
    assert "diverges" in failure.traceback
    lines = (tmp_path / "spool" / "entries.jsonl").read_text().splitlines()
    (end,) = [e for e in map(json.loads, lines) if e["op"] == "finish"]
    assert (end["run"], end["status"]) == ("trial-0000-seed-2", "FAIL")
    assert end["tags"]["orchestrator.error"] == failure.error


def test_a_full_disk_ends_the_round_and_is_no_fault_of_the_finalist(
    final: FinalRound, cluster: None
) -> None:
    pending = {"trial-0000": {1: ray.remote(fills_the_disk).remote(1)}}
    failures = Failures(final.record, lambda line: None)
    with pytest.raises(OSError, match="No space left") as caught:
        final._runs(final.record.trials[0], pending, failures)
    fault = infrastructure_fault(caught.value)
    assert fault == "no space left on device: '/somewhere/tensors.safetensors'"
    assert final.record.failures == []


@pytest.mark.parametrize(("world", "changed"), [("validation", True), ("test", False)])
def test_data_seeds_cut_the_validation_anew_and_leave_the_test(
    final: FinalRound, world: Any, changed: bool
) -> None:
    final.base = assign(Experiment(), {"seed": 5, "data.seed": 20})
    assert final._cut(7, world) == {}
    final.options = final.options.model_copy(update={"data_seeds": True})
    assert final._cut(7, world) == ({"data.seed": 22} if changed else {})


# --- the choice among what has run --------------------------------------------------------------


def seed_run(seed: int, right: float, tested: float) -> SeedRun:
    """A run that is right on a part of 40 validation images of each of two known classes."""
    labels = np.repeat([0, 1], 40)
    hits = (np.tile(np.arange(40), 2) < 40 * right).astype(np.float64)
    answers = Answers(labels, hits, hits, hits, hits, np.zeros(80), np.zeros(2, dtype=np.int64))
    validation = WorldRun(seed, {METRIC: right}, [], answers)
    return SeedRun(seed, validation, WorldRun(seed, {METRIC: tested}, [], None))


@pytest.mark.parametrize(
    ("right", "tested", "winner"),
    [((0.9, 0.5), (0.1, 0.9), "trial-0001"), ((0.5, 0.9), (0.9, 0.1), "trial-0000")],
)
def test_validation_answers_choose_the_winner_against_the_base(
    final: FinalRound, right: tuple[float, float], tested: tuple[float, float], winner: str
) -> None:
    base = final.record.trials[0]
    other = base.model_copy(
        update={"trial_id": "trial-0001", "number": 1, "params": {"classify.training.lr": 0.2}}
    )
    final.record.trials = [base, other]
    runs = {
        trial.trial_id: [seed_run(seed, mine, test) for seed in (1, 2)]
        for trial, mine, test in zip((other, base), right, tested, strict=True)
    }
    final.record.finalists = [
        summarize(trial, runs[trial.trial_id], "first", None) for trial in (other, base)
    ]
    found = final._select([other, base], final.record.finalists, runs, final.record.objectives)
    assert (found.winner, found.base) == (winner, "trial-0000")
    if winner == "trial-0001":
        assert found.difference is not None
        assert found.difference.mean == pytest.approx(0.4)


def test_the_winner_of_a_sweep_whose_base_failed_is_the_best_on_validation(
    final: FinalRound,
) -> None:
    trials = [
        TrialRecord(trial_id=f"trial-{n:04d}", number=n, state="COMPLETE", params={"x": n})
        for n in (1, 2, 3)
    ]
    runs = {
        trial.trial_id: [seed_run(1, right, 1 - right)]
        for trial, right in zip(trials, (0.5, 0.75, 0.25), strict=True)
    }
    final.record.trials = trials
    final.record.finalists = [summarize(t, runs[t.trial_id], "first", None) for t in trials]
    found = final._select(trials, final.record.finalists, runs, final.record.objectives)
    assert (found.winner, found.base) == ("trial-0002", None)
