"""The searcher: Ray Tune asks it for recipes and tells it what came out; Optuna remembers.

It keeps the study honest where Ray's own wrapper does not: a trial that the scheduler stopped is
PRUNED with its last value, a crash or a NaN is FAIL, and after a kill no trial is lost or counted
twice. Trial, Ray trial and stage results are linked in the trial's attributes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.searcher import Searcher

import search_spaces
from orchestrator.journal import SweepJournal, claim
from orchestrator.ladder import RETRY_OF, RUNG, Ladder, OneEach, Turn, place_of, promoted, rung_of
from orchestrator.records import Objective
from orchestrator.sampler import GroupedTPE
from orchestrator.study_manifest import StudyManifest
from orchestrator.verdict import COMPLETED, Verdict, judge, number_of
from search_spaces.pick import FromTrial, Pick, Replay, Start
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.settings import assign

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # a recipe during which driver or worker died this often is not tried again


class StudySearcher(Searcher):  # type: ignore[misc]
    """Searches one study, from its first trial to its last, over as many runs as it takes.

    A suggestion is ``{"trial_number": 3, "params": {"classify.loss": "ldam", ...}}``. What the
    study is made of is frozen in ``study.json``, its trials are in ``study.journal``; both lie in
    the sweep's folder, and opening the same folder again goes on: trials that were running are
    set to FAIL and their recipes enqueued again.

    Args:
        folder: The sweep's folder.
        space: Name of a search space, or ``package.module:function``.
        base: The experiment that the space varies.
        objectives: Metrics of a trial's last result, each with ``max`` or ``min``.
        num_trials: Trials in total, over all runs of the sweep.
        seed: Seed of the draws.
        name: Name of the study; the folder's name by default.
        fidelity: Metric that tells how a running trial does, for the values of stopped trials;
            the first objective by default.
        ladder: Decides who trains longer; a suggestion then has ``"rung": {...}``, what shortens
            the recipe. Below the top a trial is told as PRUNED with its value after so many
            epochs, so that TPE ranks it below all that got further.

    Raises:
        ConfigError: The folder holds another study, or the space does not exist.
    """

    def __init__(
        self,
        *,
        folder: Path,
        space: str,
        base: Experiment,
        objectives: Sequence[Objective],
        num_trials: int,
        seed: int = 0,
        name: str = "",
        fidelity: Objective | None = None,
        ladder: Ladder | None = None,
    ) -> None:
        # Ray would demand the metrics in every report, so it is not told of them.
        super().__init__()
        self.folder = Path(folder)
        self.base = base
        self.num_trials = num_trials
        self.objectives = list(objectives)
        self.fidelity = fidelity or self.objectives[0]
        self.ladder = ladder
        self._vary = search_spaces.load(space)
        self.manifest = StudyManifest.freeze(
            self.folder,
            name=name or self.folder.name,
            space=search_spaces.resolve(space),
            base=base,
            objectives=self.objectives,
            seed=seed,
            ladder=ladder.milestones if ladder else (),
        )
        self._numbers: dict[str, int] = {}  # Ray trial -> Optuna trial
        self._study: Study | None = None
        self._storage: Any = None
        self._claim: int | None = None

    @property
    def study(self) -> Study:
        """The Optuna study, opened on first use.

        Raises:
            ConfigError: Another process runs this sweep.
        """
        if self._study is None:
            self._study = self._open()
        return self._study

    @property
    def remaining(self) -> int:
        """How many trials are still to be asked for."""
        trials = self.study.get_trials(deepcopy=False)
        waiting = {trial.number for trial in trials if trial.state is TrialState.WAITING}
        return max(0, self.num_trials - len(trials) + len(waiting | superseded(trials)))

    def _open(self) -> Study:
        """Open the journal, and settle what an earlier run left behind."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._claim = claim(self.folder)
        self._storage = JournalStorage(SweepJournal(self.folder / "study.journal"))
        study = optuna.create_study(
            study_name=self.manifest.name,
            storage=self._storage,
            directions=["maximize" if o.mode == "max" else "minimize" for o in self.objectives],
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        past = study.get_trials(deepcopy=False)
        # a run that goes on must not draw again what the run before it drew
        seed = _derive(self.manifest.seed, len(past))
        study.sampler = GroupedTPE(seed, view=OneEach) if self.ladder else GroupedTPE(seed)
        if not past:
            self._begin(study)
        self._settle(study, past)
        return study

    def _begin(self, study: Study) -> None:
        """Name the objectives; enqueue the base, which a search must beat, or a grid's points."""
        with warnings.catch_warnings():  # for people's eyes (optuna-dashboard) only
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([o.metric for o in self.objectives])
        listed = search_spaces.grid(self.manifest.space, self.base)
        for params in listed:
            study.enqueue_trial(params)
        if not listed:
            start = Start()
            self._vary(Pick(start), self.base)
            study.enqueue_trial(start.params, user_attrs={"baseline": True})

    def _settle(self, study: Study, trials: Sequence[FrozenTrial], driver_died: int = 1) -> None:
        """Set trials that nobody runs to FAIL and enqueue their recipes."""
        live = set(self._numbers.values())
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            if trial.state is not TrialState.RUNNING or trial.number in live:
                continue
            attempt = trial.user_attrs.get("attempt", 0) + driver_died
            if trial.number not in retried:  # enqueued first: a kill on the way loses nothing
                _enqueue_again(study, trial, attempt)
            if attempt < MAX_ATTEMPTS:
                self._note(study, trial.number, superseded=True)
            self._note(study, trial.number, reason=f"the driver ended while it ran ({attempt})")
            study.tell(trial.number, state=TrialState.FAIL)

    def try_again(self, number: int) -> bool:
        """Enqueue the recipe of a failed trial whose worker died; say whether it will be tried.

        It will not after `MAX_ATTEMPTS`: the recipe may be what kills workers.
        """
        trial = self.study.get_trials(deepcopy=False)[number]
        return _enqueue_again(self.study, trial, trial.user_attrs.get("attempt", 0) + 1)

    def close(self) -> None:
        """End this run: trials that are still running will be tried again by the next one."""
        if self._study is None:
            return
        self._numbers = {}
        self._settle(self._study, self._study.get_trials(deepcopy=False), driver_died=0)
        self._study = self._storage = None
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a recipe's parameters, `Searcher.FINISHED`, or ``None``: ask again later.

        Raises:
            ConfigError: The space gave a recipe that the schema refuses, or a choice that the
                study was started with is gone.
        """
        if self.remaining == 0:  # a trial that runs may be lost, and is then tried again
            return None if self._numbers else str(Searcher.FINISHED)
        if self.ladder is None:
            return self._new(trial_id)
        turn = self.ladder.turn(self.study.get_trials(deepcopy=False), self.remaining)
        if turn is Turn.WAIT:
            return None
        found = self._new(trial_id) if turn is Turn.NEW else self._promote(trial_id, turn)
        rung = self.rung(found["trial_number"])
        if not rung:
            self._note(self.study, found["trial_number"], **{RUNG: self.ladder.top})
        return {**found, "rung": rung}

    def _promote(self, trial_id: str, source: FrozenTrial) -> dict[str, Any]:
        """Begin a trial of the same recipe, one rung higher."""
        template = promoted(source, ray_trial=trial_id)
        owner = self._storage.get_study_id_from_name(self.study.study_name)
        stored = self._storage.create_new_trial(owner, template_trial=template)
        number: int = self._storage.get_trial_number_from_id(stored)
        self._numbers[trial_id] = number
        return {"trial_number": number, "params": self.params(number)}

    def _new(self, trial_id: str) -> dict[str, Any]:
        """Begin a trial that was enqueued, or of a recipe that is drawn."""
        trial = self.study.ask()
        known = len(self.manifest.choices)
        pick = Pick(FromTrial(trial, self.manifest.choices))
        try:
            self._vary(pick, self.base)
        except ConfigError as error:
            self._note(self.study, trial.number, reason=str(error))
            self.study.tell(trial.number, state=TrialState.FAIL)
            raise
        if len(self.manifest.choices) > known:
            self.manifest.save(self.folder)
        trial.set_user_attr("ray_trial", trial_id)
        self._numbers[trial_id] = trial.number
        return {"trial_number": trial.number, "params": dict(pick.changes)}

    def annotate(self, trial_id: str, **attributes: Any) -> None:
        """Note something about a running trial, e.g. ``mlflow_run="..."``; JSON values."""
        number = self._number(trial_id)
        if number is not None:
            self._note(self.study, number, **attributes)

    def params(self, number: int) -> dict[str, Any]:
        """Return a trial's flat parameters, as they were suggested."""
        stored = self.study.get_trials(deepcopy=False)[number].params
        pick = Pick(Replay(stored))
        self._vary(pick, self.base)
        return dict(pick.changes)

    def rung(self, number: int) -> dict[str, Any]:
        """Return what shortens a trial's recipe; nothing without a ladder, or at its top."""
        if self.ladder is None:
            return {}
        recipe = assign(self.base, self.params(number))
        return self.ladder.changes(recipe, rung_of(self.study.get_trials(deepcopy=False)[number]))

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Keep how a running trial does, by epoch."""
        number = self._number(trial_id)
        if number is not None and result.get(COMPLETED) != 1.0:
            self._keep_fidelity(number, result)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a trial ended; the first word on a trial counts."""
        number = self._number(trial_id)
        if number is None:
            return
        result = result or {}
        verdict = self._on_rung(number, judge(result, error, self.objectives, self.fidelity))
        if verdict.state is TrialState.PRUNED and self.ladder is None:
            self._keep_fidelity(number, result)
        attributes = {
            "stage_keys": _collect(result, "stage_keys"),
            "mlflow_run": result.get("run_id"),
            "epoch": result.get("epoch"),
            "reason": verdict.reason,
        }
        self._note(self.study, number, **{k: v for k, v in attributes.items() if v})
        self.study.tell(number, verdict.values, state=verdict.state)
        self._numbers.pop(trial_id, None)

    def _on_rung(self, number: int, verdict: Verdict) -> Verdict:
        """Keep what a trial reached below the top of the ladder, where it is not complete."""
        trial = self.study.get_trials(deepcopy=False)[number]
        if self.ladder is None or verdict.values is None or rung_of(trial) == self.ladder.top:
            return verdict
        epochs = self.ladder.milestones[rung_of(trial)]
        storage_id = self._storage_id(self.study, number)
        self._storage.set_trial_intermediate_value(storage_id, epochs, verdict.values[0])
        return Verdict(TrialState.PRUNED, reason=f"judged after {epochs} epochs")

    def _keep_fidelity(self, number: int, result: Mapping[str, Any]) -> None:
        """Store a running trial's value under its epoch (Optuna has none for many objectives)."""
        if len(self.objectives) > 1 or not {"epoch", self.fidelity.metric} <= result.keys():
            return
        value = number_of(result[self.fidelity.metric])
        same = self.fidelity.mode == self.objectives[0].mode
        self._storage.set_trial_intermediate_value(
            self._storage_id(self.study, number), int(result["epoch"]), value if same else -value
        )

    def _number(self, trial_id: str) -> int | None:
        """Return the Optuna trial of a Ray trial while it runs, else ``None``."""
        trials = self.study.get_trials(deepcopy=False)
        number = self._numbers.get(trial_id)
        if number is None:  # after a restore, the journal knows more than the snapshot
            found = (t.number for t in trials if t.user_attrs.get("ray_trial") == trial_id)
            number = next(found, None)
        running = number is not None and trials[number].state is TrialState.RUNNING
        return number if running else None

    def _note(self, study: Study, number: int, **attributes: Any) -> None:
        """Store attributes of a trial."""
        trial = self._storage_id(study, number)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial, name, value)

    def _storage_id(self, study: Study, number: int) -> int:
        owner = self._storage.get_study_id_from_name(study.study_name)
        found: int = self._storage.get_trial_id_from_study_id_trial_number(owner, number)
        return found

    def save(self, checkpoint_path: str) -> None:
        """Write which Ray trial is which Optuna trial; everything else is in the journal."""
        Path(checkpoint_path).write_text(json.dumps(self._numbers))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote: these trials go on, all other running ones have ended."""
        self._numbers = json.loads(Path(checkpoint_path).read_text())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open study behind: a copy opens the journal itself."""
        return self.__dict__ | {"_study": None, "_storage": None, "_claim": None}


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of lost trials that do not count: another one is tried in their place."""
    again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    return {t.number for t in trials if t.number in again or t.user_attrs.get("superseded")}


def _enqueue_again(study: Study, trial: FrozenTrial, attempt: int) -> bool:
    """Enqueue a lost trial's recipe on its rung, unless it was lost too often."""
    params = trial.system_attrs.get("fixed_params", {}) | trial.params
    if attempt >= MAX_ATTEMPTS or not params:
        return False
    attributes = {RETRY_OF: trial.number, "attempt": attempt, **place_of(trial)}
    study.enqueue_trial(params, user_attrs=attributes)
    return True


def _derive(seed: int, drawn: int) -> int:
    """Return a 32-bit seed for the trials after the first ``drawn``."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{drawn}".encode()).digest()[:4], "big")


def _collect(result: Mapping[str, Any], name: str) -> Any:
    """Return a value that Ray may have flattened (``name/key``)."""
    if name in result:
        return result[name]
    return {k.removeprefix(f"{name}/"): v for k, v in result.items() if k.startswith(f"{name}/")}
