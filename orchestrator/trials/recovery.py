"""Recovery of trials that are in the study but, after a kill, not in the record."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.execution.execute import validate
from orchestrator.records import SweepRecord, TrialRecord
from orchestrator.search.sweep_study import superseded
from orchestrator.store.stage_store import StageStore
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.callback import log_best, log_curves, name_of, numbers
from trainables.context import Context
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.settings import assign, flatten

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from orchestrator.search.searcher import StudySearcher

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
    """Make the record's trials those of the study, and return the ones that were added.

    The driver writes the end of a trial to the study before the record, so the study may have more
    trials. The recipe of a completed trial is run again; the store has the results of all its
    stages. Trials that only the record has are dropped: the end of the study's journal was lost,
    with a host for one, and the study tries their recipes again or draws others.

    Args:
        record: Record of the sweep, changed in place and saved.
        searcher: Searcher with the opened study.
        base: Base recipe of the trials.
        storage: Storage of stage results.
        tracker: Tracker of the trials' runs.
        folder: Folder of the sweep.
    """
    trials = searcher.study.get_trials(deepcopy=False)
    lost = superseded(trials)
    gone = [t for t in record.trials if t.number in lost or t.number >= len(trials)]
    for entry in gone:
        logger.warning("trial %d is not in the study any more and is tried again", entry.number)
        record.trials.remove(entry)
    known = {trial.number for trial in record.trials} | lost
    seen = {use.key for trial in record.trials for use in trial.stages}
    found = []
    for trial in trials:
        if trial.state.name not in STATES or trial.number in known:
            continue
        entry = _rebuild(trial, searcher, base, storage)
        logger.warning(
            "trial %d was missing in the record and is added from the study", trial.number
        )
        recipe = assign(base, entry.changes)
        tracker.start_trial(
            entry.trial_id,
            entry.number,
            params=flatten(recipe),
            experiment=recipe.model_dump(mode="json"),
        )
        log_curves(tracker, entry, seen, once=True)
        tracker.finish_trial(entry, once=True)
        record.trials.append(entry)
        log_best(tracker, record)
        found.append(entry)
    if found or gone:
        record.trials.sort(key=lambda trial: trial.number)
        record.save(folder)
    return found


def _rebuild(
    trial: FrozenTrial, searcher: StudySearcher, base: Experiment, storage: str
) -> TrialRecord:
    """Return the record of a trial from study and stage store."""
    entry = TrialRecord(
        trial_id=name_of(trial.number),
        number=trial.number,
        state=trial.state.name,
        params={},
        error=trial.user_attrs.get("reason") if trial.state.name == "FAIL" else None,
    )
    try:
        entry.params = searcher.params(trial.number)
        entry.rung = searcher.rung(trial.number)
    except ConfigError:  # the schema refuses the suggested recipe, as `error` says
        return entry
    if trial.state.name == "PRUNED" and trial.intermediate_values and not entry.rung:
        last = trial.intermediate_values[max(trial.intermediate_values)]
        entry.metrics = {searcher.fidelity.metric: last}
    if trial.state.name == "COMPLETE" or (trial.state.name == "PRUNED" and entry.rung):
        recipe = assign(base, entry.changes)
        outcome, _ = validate(recipe, StageStore(storage), Context(seed=recipe.seed))
        entry.metrics = numbers(dict(outcome.metrics))
        entry.stages = outcome.uses
        entry.seconds = sum(use.seconds for use in outcome.uses)
    return entry
