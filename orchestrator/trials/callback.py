"""Ray Tune callback that updates record, tracker and display when trials start and end."""

from __future__ import annotations

import bisect
import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import NodeDiedError, RayActorError, RayTaskError, WorkerCrashedError

from orchestrator.execution.infrastructure import infrastructure_fault
from orchestrator.records import StageUse, SweepRecord, TrialRecord
from orchestrator.tracking.tracker import SWEEP, Tracker
from orchestrator.trials.interrupts import Interrupts
from orchestrator.trials.progress import SweepDisplay
from orchestrator.trials.trial import decode_result
from trainables.experiment import Experiment
from trainables.settings import assign, flatten

SAVE_SECONDS = 1.0  # shortest interval of writing the whole record for cheap trials


def name_of(number: int) -> str:
    """Return the id of a trial in the record.

    Example:
        >>> name_of(7)
        'trial-0007'
    """
    return f"trial-{number:04d}"


class SweepCallback(tune.Callback):  # type: ignore[misc]
    """Updates the sweep's record, and reports trials to tracker and display.

    Args:
        record: Record of the sweep, changed in place. It is saved after every finished trial; after
            trials that only reused results, at most once a second, because `recovery` can restore
            such trials from study and stage store.
        base: Base recipe of the trials.
        folder: Folder of the record.
        tracker: Tracker of the runs.
        display: Display of the progress.
        try_again: Called with the number of a trial whose worker died, and whether that counts as
            an attempt; returns True if a new trial will run the same recipe.
        annotate: Called with a Ray trial and ``mlflow_run=ID`` when a running trial has a run in
            MLflow, to note it in the study.
        interrupts: Listens to Ctrl-C when Tune's loop begins, and ends the loop when disk, host or
            Ray failed.
    """

    def __init__(
        self,
        record: SweepRecord,
        base: Experiment,
        folder: Path,
        tracker: Tracker,
        display: SweepDisplay,
        try_again: Callable[[int, bool], bool],
        annotate: Callable[..., None],
        interrupts: Interrupts,
    ) -> None:
        self.record, self.base, self.folder = record, base, folder
        self.tracker, self.display, self.try_again = tracker, display, try_again
        self.annotate, self.interrupts = annotate, interrupts
        self._save_at = 0.0
        self._unlinked: dict[int, str] = {}  # Ray trials without a run in MLflow, by number
        self._begun: list[Any] = []  # trials that were not yet sent to the tracker
        self.known_stages = {u.key for t in record.trials for u in t.stages}

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state for Tune's snapshots, because a sweep resumes from its record."""
        return {}

    def setup(self, **_: Any) -> None:
        """Listen to Ctrl-C; Tune calls this method when its loop begins."""
        self.interrupts.listen()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Add a trial to the record; `on_step_end` sends the trial to the tracker."""
        self._entry(trial)
        self._begun.append(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Send the started trials to the tracker; link running trials in the study to MLflow."""
        self._track_begun()
        for number, ray_trial in list(self._unlinked.items()):
            run_id = self.tracker.run_id(name_of(number))
            if run_id is not None:
                del self._unlinked[number]
                self.annotate(ray_trial, mlflow_run=run_id)

    def _track_begun(self) -> None:
        while self._begun:
            self._track(self._begun.pop(0))

    def _track(self, trial: Any) -> None:
        """Send a trial with its recipe to the tracker."""
        entry = self._entry(trial)
        recipe = assign(self.base, entry.changes)
        self._unlinked[entry.number] = trial.trial_id
        self.tracker.start_trial(
            entry.trial_id,
            entry.number,
            params=flatten(recipe),
            tags={"orchestrator.ray_trial": trial.trial_id},
            experiment=recipe.model_dump(mode="json"),
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record a trial that ended by itself or was stopped by the scheduler."""
        result, entry = decode_result(trial.last_result), self._entry(trial)
        entry.metrics = numbers(result)
        entry.seconds = float(result.get("seconds", result.get("time_total_s", 0.0)))
        entry.stages = [StageUse.model_validate(use) for use in result.get("stage_uses", [])]
        entry.state = "COMPLETE" if result.get("completed") else "PRUNED"
        wanted = [objective.metric for objective in self.record.objectives]
        absent = [name for name in wanted if name not in entry.metrics]
        if entry.state == "COMPLETE" and absent:
            entry.state = "FAIL"
            entry.error = f"no finite value for {', '.join(absent)}"
        elif entry.state == "COMPLETE" and entry.rung:
            entry.state = "PRUNED"  # until a trial of a higher rung runs the recipe
        self._finish(entry)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Record a failed trial; one that will be repeated is dropped.

        That is a trial whose worker died, or which disk, host or Ray failed; then the sweep ends.
        """
        entry = self._entry(trial)
        entry.state, entry.error = "FAIL", last_line(trial)
        error = error_of(trial) or RuntimeError(entry.error)
        fault = infrastructure_fault(error)
        if fault is not None:
            self.interrupts.stop(fault)
            self.try_again(entry.number, False)
            entry.error = f"{fault}; a new trial runs the recipe when the sweep goes on"
            self.record.trials.remove(entry)
        elif worker_died(error) and self.try_again(entry.number, True):
            entry.error = "the trial's worker died; a new trial runs the recipe again"
            self.record.trials.remove(entry)
        self._finish(entry)

    def _entry(self, trial: Any) -> TrialRecord:
        """Return the record of a Ray trial, created by the first call."""
        number = int(trial.config["trial_number"])
        for entry in reversed(self.record.trials):
            if entry.number == number:
                return entry
        entry = TrialRecord(
            trial_id=name_of(number),
            number=number,
            state="RUNNING",
            params=dict(trial.config["params"]),
            rung=dict(trial.config.get("rung", {})),
        )
        # by number: two that start together are announced in either order
        bisect.insort(self.record.trials, entry, key=lambda trial: trial.number)
        return entry

    def _finish(self, entry: TrialRecord) -> None:
        self._track_begun()
        self._unlinked.pop(entry.number, None)
        log_curves(self.tracker, entry, self.known_stages)
        self.tracker.finish_trial(entry)
        log_best(self.tracker, self.record)
        self._save(entry)
        self.display.trial_finished(entry)

    def _save(self, entry: TrialRecord) -> None:
        """Save the record; after trials that only reused results, at most once a second.

        After a kill, study and stage store restore such trials (`recovery`).
        """
        cheap = entry.state == "COMPLETE" and all(use.reused for use in entry.stages)
        if not cheap or time.monotonic() >= self._save_at:
            self.record.save(self.folder)
            self._save_at = time.monotonic() + SAVE_SECONDS


def log_curves(
    tracker: Tracker, entry: TrialRecord, known: set[str], *, once: bool = False
) -> None:
    """Log the training curves of a trial that no trial of the sweep logged before.

    A result that several trials use has its curve on the run of the first one; the tag
    ``orchestrator.stage.STAGE``, the result's key, finds them all.
    """
    for use in entry.stages:
        if use.key not in known:
            known.add(use.key)
            tracker.log_history(entry.trial_id, use.history, once=once)


def log_best(tracker: Tracker, record: SweepRecord) -> None:
    """Log how the sweep stands on its own run: the best value so far of each objective."""
    complete = [trial for trial in record.trials if trial.state == "COMPLETE"]
    row = {"epoch": float(sum(trial.state != "RUNNING" for trial in record.trials))}
    row |= {"trials/complete": float(len(complete))}
    for objective in record.objectives:
        values = [t.metrics[objective.metric] for t in complete if objective.metric in t.metrics]
        if values:
            pick = max if objective.mode == "max" else min
            row[f"best/{objective.metric}"] = pick(values)
    tracker.log_history(SWEEP, [row])


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return the finite stage metrics of a Tune result, whose names contain a slash."""
    return {
        name: float(value)
        for name, value in result.items()
        if "/" in name and isinstance(value, int | float) and math.isfinite(value)
    }


def error_of(trial: Any) -> BaseException | None:
    """Return the error that ended a trial; ``None`` if it cannot be read."""
    path = Path(trial.pickled_error_file) if trial.pickled_error_file else None
    if path is None or not path.is_file():
        return None
    try:
        error = pickle.loads(path.read_bytes())  # this process has just written the file
    except Exception:  # Ray's own errors can be unpickled, so the recipe raised this error
        return None
    return error if isinstance(error, BaseException) else None


def worker_died(error: BaseException) -> bool:
    """Return True if a trial failed because its process or host died, not because of its recipe."""
    inner = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(inner, RayActorError | NodeDiedError | WorkerCrashedError)


def last_line(trial: Any) -> str:
    """Return the last line of a trial's traceback, which holds the exception's message."""
    # the local file exists now; its copy in the trial's storage may be written later
    local = Path(trial.error_file) if trial.error_file else None
    text = local.read_text(encoding="utf-8") if local and local.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the trial's process died"
