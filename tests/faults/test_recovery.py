"""A kill between the study's write and the record's: the trial is in the record again."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.execution.execute import execute
from orchestrator.records import Objective, SweepRecord, TrialRecord
from orchestrator.search.ladder import Ladder
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.sweep_study import MAX_ATTEMPTS
from orchestrator.store.stage_store import StageStore
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.recovery import recover
from tests.helpers import ROOT
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

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


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    """One for all sweeps of this file, because MLflow's import takes seconds."""
    folder = tmp_path_factory.mktemp("tracking")
    opened = Tracker.open(None, folder, "orchestrator", folder / "spool")
    yield opened
    opened.close()


def empty_record(base: Experiment, name: str = "s") -> SweepRecord:
    return SweepRecord(
        name=name, space="full", started="2026-01-01T00:00:00+00:00",
        experiment=base.model_dump(mode="json"), objectives=[OBJECTIVE], environment={},
    )  # fmt: skip


def test_what_the_study_knows_is_put_into_the_record(
    base: Experiment, tmp_path: Path, tracker: Tracker
) -> None:
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
    tracker.start_sweep("s", params={}, tags={})
    found = recover(record, searcher, base, storage=storage, tracker=tracker, folder=folder)
    again = recover(record, searcher, base, storage=storage, tracker=tracker, folder=folder)
    searcher.close()
    tracker.finish_sweep()
    assert tracker.flush(120)
    ids = [tracker.run_id(trial.trial_id) for trial in found]
    assert all(ids)
    assert len(set(ids)) == 3
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
    base: Experiment, tmp_path: Path, tracker: Tracker
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
    record = empty_record(base, "rungs")
    tracker.start_sweep("rungs", params={}, tags={})
    (found,) = recover(record, searcher, base, storage=storage, tracker=tracker, folder=folder)
    searcher.close()
    tracker.finish_sweep()
    assert (found.state, found.rung) == ("PRUNED", {"classify.training.until": 3})
    assert found.params == below["params"]
    assert found.metrics[OBJECTIVE.metric] == outcome.metrics[OBJECTIVE.metric]
    assert all(use.reused for use in found.stages)


def test_lost_trials_that_were_tried_again_are_not_recovered(
    base: Experiment, tmp_path: Path, tracker: Tracker
) -> None:
    """The study holds each attempt; the record holds a recipe once, under its last number."""
    folder = tmp_path / "sweeps" / "s"

    def searcher() -> StudySearcher:
        return StudySearcher(
            folder=folder, space="full", base=base, objectives=[OBJECTIVE], num_trials=4,
            fidelity=FIDELITY,
        )  # fmt: skip

    def stop(search: StudySearcher, name: str, value: float) -> None:
        search.on_trial_result(name, {FIDELITY.metric: value / 2, "epoch": 1})
        search.on_trial_complete(name, {FIDELITY.metric: value, "epoch": 2})

    first = searcher()
    for name in ("a", "b", "c"):
        first.suggest(name)
    stop(first, "a", 0.25)
    first.on_trial_complete("b", error=True)
    assert first.try_again(1)  # its worker died: trial 3 in its place
    second = searcher()  # the driver was killed while trial 2 ran: trial 4 in its place
    for name, value in (("d", 0.5), ("e", 0.75)):
        second.suggest(name)
        stop(second, name, value)
    record = empty_record(base, "lost")
    known = TrialRecord(trial_id="trial-0003", number=3, state="PRUNED", params={})
    record.trials = [known]
    tracker.start_sweep("lost", params={}, tags={})
    found = recover(record, second, base, storage=str(tmp_path), tracker=tracker, folder=folder)
    first.close()
    second.close()
    tracker.finish_sweep()
    assert [t.number for t in found] == [0, 4]
    assert [t.number for t in SweepRecord.load(folder).trials] == [0, 3, 4]
    assert record.trials[1] is known
    assert [t.state for t in found] == ["PRUNED"] * 2
    assert [t.metrics[FIDELITY.metric] for t in found] == [0.25, 0.75], "the last epoch's"


def test_a_recipe_that_was_given_up_is_recovered_as_failed(
    base: Experiment, tmp_path: Path, tracker: Tracker
) -> None:
    folder = tmp_path / "sweeps" / "s"
    search = StudySearcher(
        folder=folder, space="full", base=base, objectives=[OBJECTIVE], num_trials=1
    )
    for number in range(MAX_ATTEMPTS):
        search.suggest(f"ray-{number}")
        search.on_trial_complete(f"ray-{number}", error=True)
        search.try_again(number)
    record = empty_record(base, "given-up")
    tracker.start_sweep("given-up", params={}, tags={})
    recover(record, search, base, storage=str(tmp_path), tracker=tracker, folder=folder)
    search.close()
    tracker.finish_sweep()
    assert [(t.number, t.state) for t in record.trials] == [(MAX_ATTEMPTS - 1, "FAIL")]
