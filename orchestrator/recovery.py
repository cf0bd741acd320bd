"""After a kill between two writes: trials that the study knows and the record lacks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.callback import numbers, record_stages
from orchestrator.execute import execute
from orchestrator.records import SweepRecord, TrialRecord
from orchestrator.search import superseded
from orchestrator.store import StageStore
from orchestrator.tracking import Tracker
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.settings import assign, flatten

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from orchestrator.search import StudySearcher

logger = logging.getLogger(__name__)

STATES = ("COMPLETE", "PRUNED", "FAIL")


def recover(
    record: SweepRecord,
    searcher: StudySearcher,
    base: Experiment,
    *,
    storage: str,
    tracker: Tracker,
    folder: Path,
) -> list[TrialRecord]:
    """Add the trials that ended in the study but not in the record, and return them.

    The study is told first how a trial ended, so it is the one that knows more. A complete trial's
    recipe is run again: every stage of it is in the store.

    Args:
        record: Changed in place and saved.
        searcher: Has the study, opened.
        base: The recipe that trials change.
        storage: Stage storage.
        tracker: Where the trials' runs are ended.
        folder: The sweep's folder.
    """
    known = {trial.number for trial in record.trials}
    seen = {use.key for trial in record.trials for use in trial.stages}
    found = []
    trials = searcher.study.get_trials(deepcopy=False)
    known |= superseded(trials)
    for trial in trials:
        if trial.state.name not in STATES or trial.number in known:
            continue
        entry = _rebuild(trial, searcher, base, storage)
        logger.warning("trial %d was not in the record: added from the study", trial.number)
        recipe = assign(base, entry.changes)
        tracker.start_trial(
            entry.trial_id,
            entry.number,
            params=flatten(recipe),
            experiment=recipe.model_dump(mode="json"),
        )
        record_stages(tracker, entry, recipe, seen)
        tracker.finish_trial(entry)
        record.trials.append(entry)
        found.append(entry)
    if found:
        record.trials.sort(key=lambda trial: trial.number)
        record.save(folder)
    return found


def _rebuild(
    trial: FrozenTrial, searcher: StudySearcher, base: Experiment, storage: str
) -> TrialRecord:
    """Return the record of a trial from what the study and the stage store know."""
    entry = TrialRecord(
        trial_id=f"trial-{trial.number:04d}",
        number=trial.number,
        state=trial.state.name,
        params={},
        error=trial.user_attrs.get("reason") if trial.state.name == "FAIL" else None,
    )
    try:
        entry.params = searcher.params(trial.number)
        entry.rung = searcher.rung(trial.number)
    except ConfigError:  # the space gave a recipe that the schema refuses: the reason says so
        return entry
    if trial.state.name == "PRUNED" and trial.intermediate_values and not entry.rung:
        last = trial.intermediate_values[max(trial.intermediate_values)]
        entry.metrics = {searcher.fidelity.metric: last}
    if trial.state.name == "COMPLETE" or (trial.state.name == "PRUNED" and entry.rung):
        recipe = assign(base, entry.changes)
        outcome = execute(recipe, StageStore(storage), Context(seed=recipe.seed))
        entry.metrics = numbers(dict(outcome.metrics))
        entry.stages = outcome.uses
        entry.seconds = sum(use.seconds for use in outcome.uses)
    return entry
