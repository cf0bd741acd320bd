"""A kill between the study's write and the record's: the trial is in the record again."""

import math
from pathlib import Path

import pytest

from orchestrator.execute import execute
from orchestrator.ladder import Ladder
from orchestrator.records import Objective, SweepRecord
from orchestrator.recovery import recover
from orchestrator.search import StudySearcher
from orchestrator.store import StageStore
from orchestrator.tracking import Tracker
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

ROOT = Path(__file__).parents[2]
OBJECTIVE = Objective(metric="evaluate/accuracy/balanced", mode="max")
FIDELITY = Objective(metric="classify/validation_accuracy", mode="max")


@pytest.fixture(scope="module")
def base() -> Experiment:
    return assign(
        load_experiment(ROOT / "experiments" / "digits.yaml"),
        {
            "classify.training.epochs": 2,
            "update.training.epochs": 1,
            "score.threshold": {"known_recall": {"keep": 0.8}},
        },
    )


def empty_record(base: Experiment) -> SweepRecord:
    return SweepRecord(
        name="s", study="full", started="2026-01-01T00:00:00+00:00",
        experiment=base.model_dump(mode="json"), objectives=[OBJECTIVE], environment={},
    )  # fmt: skip


def test_what_the_study_knows_is_put_into_the_record(base: Experiment, tmp_path: Path) -> None:
    folder, storage = tmp_path / "sweeps" / "s", str(tmp_path)
    searcher = StudySearcher(
        folder=folder, space="full", base=base, objectives=[OBJECTIVE], num_trials=3,
        fidelity=FIDELITY,
    )  # fmt: skip
    whole, stopped, broken = (searcher.suggest(name) for name in ("ray-a", "ray-b", "ray-c"))
    assert isinstance(whole, dict)
    recipe = assign(base, whole["params"])
    outcome = execute(recipe, StageStore(storage), Context(seed=recipe.seed))
    done = {**outcome.metrics, "completed": 1.0, "epoch": 3}
    searcher.on_trial_complete("ray-a", done)
    searcher.on_trial_complete("ray-b", {FIDELITY.metric: 0.25, "epoch": 1})
    searcher.on_trial_complete("ray-c", {OBJECTIVE.metric: math.nan, "completed": 1.0})
    record = empty_record(base)
    tracker = Tracker.open(None, tmp_path, "orchestrator", folder / "spool")
    try:
        tracker.start_sweep("s", params={}, tags={})
        found = recover(record, searcher, base, storage=storage, tracker=tracker, folder=folder)
        again = recover(record, searcher, base, storage=storage, tracker=tracker, folder=folder)
        tracker.finish_sweep()
        assert tracker.flush(120)
        ids = [tracker.run_id(trial.trial_id) for trial in found]
        assert all(ids)
        assert len(set(ids)) == 3
    finally:
        tracker.close()
        searcher.close()
    assert again == []
    assert [t.state for t in record.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [t.params for t in record.trials] == [
        suggestion["params"]
        for suggestion in (whole, stopped, broken)  # type: ignore[index]
    ]
    first, second, third = record.trials
    assert all(use.reused for use in first.stages)
    assert first.metrics[OBJECTIVE.metric] == outcome.metrics[OBJECTIVE.metric]
    assert second.metrics == {FIDELITY.metric: 0.25}
    assert "no finite value" in str(third.error)
    assert SweepRecord.load(folder).trials == record.trials


def test_a_rung_that_the_study_knows_is_put_into_the_record(
    base: Experiment, tmp_path: Path
) -> None:
    base = assign(base, {"classify.training.epochs": 6})
    folder, storage = tmp_path / "sweeps" / "s", str(tmp_path)
    searcher = StudySearcher(
        folder=folder, space="full", base=base, objectives=[OBJECTIVE], num_trials=4,
        ladder=Ladder(base, [OBJECTIVE], num_trials=4),
    )  # fmt: skip
    below = searcher.suggest("ray-a")
    assert isinstance(below, dict)
    recipe = assign(base, {**below["params"], **below["rung"]})
    outcome = execute(recipe, StageStore(storage), Context(seed=recipe.seed))
    searcher.on_trial_complete("ray-a", {**outcome.metrics, "completed": 1.0, "epoch": 3})
    record = empty_record(base)
    tracker = Tracker.open(None, tmp_path, "orchestrator", folder / "spool")
    try:
        tracker.start_sweep("s", params={}, tags={})
        (found,) = recover(record, searcher, base, storage=storage, tracker=tracker, folder=folder)
        tracker.finish_sweep()
    finally:
        tracker.close()
        searcher.close()
    assert (found.state, found.rung) == ("PRUNED", {"classify.training.until": 3})
    assert found.params == below["params"]
    assert found.metrics[OBJECTIVE.metric] == outcome.metrics[OBJECTIVE.metric]
    assert all(use.reused for use in found.stages)
