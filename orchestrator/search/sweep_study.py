"""A sweep's Optuna study on disk: opened by one driver at a time, mended after a kill.

Trials that a killed driver left running are set to FAIL and their recipes enqueued again; each
recipe counts once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

import search_spaces
from orchestrator.locking.sweep_lock import SweepLock, lock_sweep
from orchestrator.records import Objective, TrialRecord
from orchestrator.search.journal import SweepJournal
from orchestrator.search.ladder import RETRY_OF, place_of
from orchestrator.search.study_files import JOURNAL, REMEDY
from orchestrator.search.study_manifest import StudyManifest
from search_spaces.pick import Pick, Start
from trainables.errors import ConfigError
from trainables.experiment import Experiment

MAX_ATTEMPTS = 3  # a recipe during which driver or worker died this often is not tried again


class SweepStudy:
    """The study in ``study.journal`` of a sweep's folder.

    Args:
        folder: The sweep's folder.
        name: Name of the study.
        objectives: Metrics of a trial, each with ``max`` or ``min``.
    """

    def __init__(self, folder: Path, name: str, objectives: Sequence[Objective]) -> None:
        self.folder, self.name, self.objectives = folder, name, objectives
        self._storage: Any = None
        self._lock: SweepLock | None = None

    def open(self) -> Study:
        """Open the study; it is made if there is none.

        Raises:
            ConfigError: Another process runs this sweep, or its journal is damaged.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._lock = lock_sweep(self.folder)
        path = self.folder / JOURNAL
        journal = SweepJournal(path)
        try:
            self._storage = JournalStorage(journal)
            return optuna.create_study(
                study_name=self.name,
                storage=self._storage,
                directions=["maximize" if o.mode == "max" else "minimize" for o in self.objectives],
                pruner=optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
        except (KeyError, IndexError, TypeError, ValueError, AssertionError) as error:
            # Optuna replays the operations of the journal and checks none of them
            text = " ".join(f"{type(error).__name__} {error}".split())[:100]
            raise ConfigError(f"{path} is damaged, Optuna reads: {text}; {REMEDY}") from None

    def close(self) -> None:
        """Leave the study to another process."""
        self._storage = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def settle(self, study: Study, live: Collection[int], driver_died: int = 1) -> None:
        """Set trials that nobody runs to FAIL and enqueue their recipes.

        Args:
            study: The open study.
            live: Numbers of the trials that somebody runs.
            driver_died: How many attempts that takes from a recipe.
        """
        trials = study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            if trial.state is not TrialState.RUNNING or trial.number in live:
                continue
            attempt = trial.user_attrs.get("attempt", 0) + driver_died
            if trial.number not in retried:  # enqueued first: a kill on the way loses nothing
                _enqueue_again(study, trial, attempt)
            if attempt < MAX_ATTEMPTS:
                self.note(trial.number, superseded=True)
            self.note(trial.number, reason=f"the driver ended while it ran ({attempt})")
            study.tell(trial.number, state=TrialState.FAIL)

    def note(self, number: int, **attributes: Any) -> None:
        """Store attributes of a trial; JSON values."""
        trial = self._storage_id(number)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial, name, value)

    def note_value(self, number: int, epoch: int, value: float) -> None:
        """Store what a trial reached after an epoch (Optuna has none for several objectives)."""
        self._storage.set_trial_intermediate_value(self._storage_id(number), epoch, value)

    def begin_trial(self, template: FrozenTrial) -> int:
        """Begin a trial like the template and return its number."""
        stored = self._storage.create_new_trial(self._study_id(), template_trial=template)
        number: int = self._storage.get_trial_number_from_id(stored)
        return number

    def _study_id(self) -> int:
        found: int = self._storage.get_study_id_from_name(self.name)
        return found

    def _storage_id(self, number: int) -> int:
        found: int = self._storage.get_trial_id_from_study_id_trial_number(self._study_id(), number)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open journal behind: a copy opens it itself."""
        return self.__dict__ | {"_storage": None, "_lock": None}


def link_runs(folder: Path, objectives: Sequence[Objective], runs: Mapping[str, str]) -> None:
    """Note in a sweep's study which MLflow run each trial has, as its attribute ``mlflow_runs``.

    A trial that ran long enough has its own attribute ``mlflow_run``. Optuna takes no attribute of
    a trial that has ended, and MLflow may hear of a short trial after its end.

    Args:
        folder: The sweep's folder.
        objectives: Metrics of a trial.
        runs: MLflow run id by trial id.

    Raises:
        ConfigError: Another process runs this sweep.
    """
    store = SweepStudy(folder, folder.name, objectives)
    study = store.open()
    try:
        study.set_user_attr("mlflow_runs", {**study.user_attrs.get("mlflow_runs", {}), **runs})
    finally:
        store.close()


def begin(study: Study, manifest: StudyManifest, base: Experiment) -> None:
    """Name the objectives; enqueue the base, which a search must beat, or a grid's points."""
    with warnings.catch_warnings():  # for people's eyes (optuna-dashboard) only
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([o.metric for o in manifest.objectives])
    listed = search_spaces.grid(manifest.space, base)
    for params in listed:
        study.enqueue_trial(params)
    if not listed:
        start = Start()
        search_spaces.load(manifest.space)(Pick(start), base)
        study.enqueue_trial(start.params, user_attrs={"baseline": True})


def adopt(
    study: Study,
    known: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    params_of: Callable[[FrozenTrial], dict[str, Any]],
) -> None:
    """Tell the study of trials that completed, but of which its journal lost the last line.

    Args:
        study: The open study.
        known: Trials of the sweep's record.
        objectives: Metrics of a completed trial.
        params_of: Returns the recipe of a trial; one with another recipe than in the record stays.
    """
    trials = study.get_trials(deepcopy=False)
    for entry in known:
        running = entry.number < len(trials) and trials[entry.number].state is TrialState.RUNNING
        values = [entry.metrics.get(o.metric) for o in objectives]
        if entry.state != "COMPLETE" or not running or None in values:
            continue
        if params_of(trials[entry.number]) == entry.params:
            study.tell(entry.number, [float(value) for value in values if value is not None])


def try_again(study: Study, number: int, lost: int = 1) -> bool:
    """Enqueue the recipe of a failed trial; say whether it will be tried.

    It will not after `MAX_ATTEMPTS`: the recipe may be what kills workers.

    Args:
        study: The open study.
        number: Of the trial.
        lost: How many attempts its failure takes from the recipe.
    """
    trial = study.get_trials(deepcopy=False)[number]
    return _enqueue_again(study, trial, trial.user_attrs.get("attempt", 0) + lost)


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of lost trials that do not count: another one is tried in their place."""
    again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return {t.number for t in trials if t.number in again or t.user_attrs.get("superseded")}


def _enqueue_again(study: Study, trial: FrozenTrial, attempt: int) -> bool:
    """Enqueue a lost trial's recipe on its rung, unless it was lost too often.

    What the sampler noted on the lost trial, its generation for one, goes over to the new one.
    """
    params = trial.system_attrs.get("fixed_params", {}) | trial.params
    if attempt >= MAX_ATTEMPTS or not params:
        return False
    attributes = {RETRY_OF: trial.number, "attempt": attempt, **place_of(trial)}
    noted = {**trial.system_attrs, "fixed_params": params}
    state = TrialState.WAITING
    study.add_trial(create_trial(state=state, system_attrs=noted, user_attrs=attributes))
    return True
