"""What the driver does as trials come and go: record, tracker, display."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import NodeDiedError, RayActorError, RayTaskError, WorkerCrashedError

from orchestrator.packed import unpack
from orchestrator.progress import SweepDisplay
from orchestrator.records import StageUse, SweepRecord, TrialRecord
from orchestrator.tracking import Tracker
from trainables.experiment import Experiment
from trainables.settings import assign, flatten

SAVE_SECONDS = 1.0  # the whole record is written at a time


class SweepCallback(tune.Callback):  # type: ignore[misc]
    """Keeps the sweep's record, and passes trials on to tracker and display.

    Args:
        record: Changed in place and saved after every finished trial, but for those that only
            reused results: a second may pass, after a kill the study and the stage store have them.
        base: The recipe that trials change.
        folder: Where the record is saved.
        tracker: Where runs are logged.
        display: Where progress is shown.
        try_again: Called with the number of a trial whose worker died; says whether its recipe
            will be tried again in its place.
    """

    def __init__(
        self,
        record: SweepRecord,
        base: Experiment,
        folder: Path,
        tracker: Tracker,
        display: SweepDisplay,
        try_again: Callable[[int], bool],
    ) -> None:
        self.record, self.base, self.folder = record, base, folder
        self.tracker, self.display, self.try_again = tracker, display, try_again
        self._save_at = 0.0
        self._recipes: dict[int, Experiment] = {}  # of running trials, by number
        self._begun: list[Any] = []  # trials that the tracker has not heard of
        self.known_stages = {u.key for t in record.trials for u in t.stages}

    def __getstate__(self) -> dict[str, Any]:
        """Leave live objects out of Tune's own snapshots; the sweep's record is the truth."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note a trial that begins; the tracker is told when its actor has been given the work."""
        self._entry(trial)
        self._begun.append(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Tell the tracker of trials that have begun."""
        self._track_begun()

    def _track_begun(self) -> None:
        while self._begun:
            self._track(self._begun.pop(0))

    def _track(self, trial: Any) -> None:
        """Tell the tracker what a trial tries."""
        entry = self._entry(trial)
        recipe = self._recipes[entry.number] = assign(self.base, entry.changes)
        self.tracker.start_trial(
            entry.trial_id,
            entry.number,
            params=flatten(recipe),
            tags={"orchestrator.ray_trial": trial.trial_id},
            experiment=recipe.model_dump(mode="json"),
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note a trial that ended by itself or was stopped by the scheduler."""
        result, entry = unpack(trial.last_result), self._entry(trial)
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
            entry.state = "PRUNED"  # until a rung above tries it
        self._finish(entry)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Note a trial that raised, or give up one whose worker died for another try."""
        entry = self._entry(trial)
        entry.state, entry.error = "FAIL", last_line(trial)
        if worker_died(trial) and self.try_again(entry.number):
            entry.error = "its worker died; the recipe is tried again"
            self.record.trials.remove(entry)
        self._finish(entry)

    def _entry(self, trial: Any) -> TrialRecord:
        """Return the record of a Ray trial, made on first sight."""
        number = int(trial.config["trial_number"])
        for entry in reversed(self.record.trials):
            if entry.number == number:
                return entry
        entry = TrialRecord(
            trial_id=f"trial-{number:04d}",
            number=number,
            state="RUNNING",
            params=dict(trial.config["params"]),
            rung=dict(trial.config.get("rung", {})),
        )
        self.record.trials.append(entry)
        return entry

    def _finish(self, entry: TrialRecord) -> None:
        self._track_begun()
        recipe = self._recipes.pop(entry.number, None) or assign(self.base, entry.changes)
        record_stages(self.tracker, entry, recipe, self.known_stages)
        self.tracker.finish_trial(entry)
        self._save(entry)
        self.display.trial_finished(entry)

    def _save(self, entry: TrialRecord) -> None:
        """Save the record, for trials that only reused results at most once a second.

        The study and the stage store can give those back whole.
        """
        cheap = entry.state == "COMPLETE" and all(use.reused for use in entry.stages)
        if not cheap or time.monotonic() >= self._save_at:
            self.record.save(self.folder)
            self._save_at = time.monotonic() + SAVE_SECONDS


def record_stages(
    tracker: Tracker, entry: TrialRecord, recipe: Experiment, known: set[str]
) -> None:
    """Give every stage result that a trial used a run of its own, once per key."""
    for use in entry.stages:
        if use.key not in known:
            known.add(use.key)
            tracker.record_stage(use, flatten(getattr(recipe, use.stage)))


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """Return the finite metrics of stages in a Tune result (names with a slash)."""
    return {
        name: float(value)
        for name, value in result.items()
        if "/" in name and isinstance(value, int | float) and math.isfinite(value)
    }


def worker_died(trial: Any) -> bool:
    """Say whether a trial failed because its process or its host was lost, not by its recipe."""
    path = Path(trial.pickled_error_file) if trial.pickled_error_file else None
    if path is None or not path.is_file():
        return False
    try:
        error = pickle.loads(path.read_bytes())  # this process wrote it just now
    except Exception:  # Ray's own errors come back whole: it is one of the recipe's
        return False
    if isinstance(error, RayTaskError):
        error = error.cause
    return isinstance(error, RayActorError | NodeDiedError | WorkerCrashedError)


def last_line(trial: Any) -> str:
    """Return the last line of a trial's error: the exception's own words."""
    # the copy in the trial's storage may come later than this call; the local file is there now
    local = Path(trial.error_file) if trial.error_file else None
    text = local.read_text(encoding="utf-8") if local and local.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "the trial's process died"
