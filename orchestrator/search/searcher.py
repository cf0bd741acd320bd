"""The searcher: Ray Tune asks it for recipes and tells it what came out; Optuna remembers.

It keeps the study honest where Ray's own wrapper does not: a trial that the scheduler stopped is
PRUNED with its last value, a crash or a NaN is FAIL, and after a kill no trial is lost or counted
twice. Trial, Ray trial and stage results are linked in the trial's attributes.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.searcher import Searcher

import search_spaces
from orchestrator.records import Objective, TrialRecord
from orchestrator.search.ladder import RUNG, Ladder, NextTrial, promoted, rung_of
from orchestrator.search.sampler_names import SamplerPlan
from orchestrator.search.samplers import make_sampler
from orchestrator.search.study_manifest import StudyManifest
from orchestrator.search.sweep_study import SweepStudy, adopt, begin, superseded, try_again
from orchestrator.trial_outcome import COMPLETED, TrialOutcome, collect, judge, number_of
from search_spaces.pick import FromTrial, Pick, Replay
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.settings import assign

logger = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


def _timed(method: Method) -> Method:
    """Add a method's wall time to the searcher's ``seconds``."""

    @functools.wraps(method)
    def timed(self: StudySearcher, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start

    return cast("Method", timed)


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
            epochs; the sampler sees its recipe ranked below all that got further.
        sampler: Where new recipes come from; see `orchestrator.search.samplers.plan_sampler`.

    Attributes:
        known: Trials of the sweep's record, of which the study is told what its journal lost.
        seconds: Wall time of asking and telling in this process.

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
        sampler: SamplerPlan = SamplerPlan(),  # noqa: B008  (a tuple: nobody can change it)
    ) -> None:
        # Ray would demand the metrics in every report, so it is not told of them.
        super().__init__()
        self.folder = Path(folder)
        self.base = base
        self.num_trials = num_trials
        self.objectives = list(objectives)
        self.fidelity = fidelity or self.objectives[0]
        self.ladder, self.sampler = ladder, sampler
        self.known: Sequence[TrialRecord] = ()
        self.seconds = 0.0
        self._vary = search_spaces.load(space)
        self.manifest = StudyManifest.freeze(
            self.folder,
            name=name or self.folder.name,
            space=search_spaces.resolve(space),
            base=base,
            objectives=self.objectives,
            seed=seed,
            ladder=ladder.milestones if ladder else (),
            sampler=sampler.name,
        )
        self._numbers: dict[str, int] = {}  # Ray trial -> Optuna trial
        self._store = SweepStudy(self.folder, self.manifest.name, self.objectives)
        self._study: Study | None = None

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
        """Open the study, and settle what an earlier run left behind."""
        study = self._store.open()
        past = study.get_trials(deepcopy=False)
        study.sampler = make_sampler(
            self.sampler, self.manifest.seed, started=len(past), ladder=self.ladder is not None
        )
        if not past:
            begin(study, self.manifest, self.base)
        adopt(study, self.known, self.objectives, self._recipe_of)
        self._store.settle(study, self._numbers.values())
        return study

    def try_again(self, number: int, counts: bool = True) -> bool:
        """Enqueue the recipe of a failed trial; say whether it will be tried.

        Args:
            number: Of the trial.
            counts: Its worker died, which may be the recipe's fault: after three losses it fails.
        """
        return try_again(self.study, number, lost=int(counts))

    def close(self) -> None:
        """End this run: trials that are still running will be tried again by the next one."""
        if self._study is None:
            return
        self._numbers = {}
        try:
            self._store.settle(self._study, (), driver_died=0)
        except OSError as error:  # the disk is full: the next run settles them
            logger.warning("study %s: %s", self.manifest.name, error)
        finally:
            self._study = None
            self._store.close()

    @_timed
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
        next_trial = self.ladder.next_trial(self.study.get_trials(deepcopy=False), self.remaining)
        if next_trial is NextTrial.WAIT:
            return None
        found = (
            self._new(trial_id)
            if next_trial is NextTrial.NEW
            else self._promote(trial_id, next_trial)
        )
        rung = self.rung(found["trial_number"])
        if not rung:
            self._store.note(found["trial_number"], **{RUNG: self.ladder.top})
        return {**found, "rung": rung}

    def _promote(self, trial_id: str, source: FrozenTrial) -> dict[str, Any]:
        """Begin a trial of the same recipe, one rung higher."""
        template = promoted(source, ray_trial=trial_id)
        number = self._store.begin_trial(template)
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
            self._store.note(trial.number, reason=str(error))
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
            self._store.note(number, **attributes)

    def params(self, number: int) -> dict[str, Any]:
        """Return a trial's flat parameters, as they were suggested."""
        return self._recipe_of(self.study.get_trials(deepcopy=False)[number])

    def _recipe_of(self, trial: FrozenTrial) -> dict[str, Any]:
        pick = Pick(Replay(trial.params))
        self._vary(pick, self.base)
        return dict(pick.changes)

    def rung(self, number: int) -> dict[str, Any]:
        """Return what shortens a trial's recipe; nothing without a ladder, or at its top."""
        if self.ladder is None:
            return {}
        recipe = assign(self.base, self.params(number))
        return self.ladder.changes(recipe, rung_of(self.study.get_trials(deepcopy=False)[number]))

    @_timed
    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Keep how a running trial does, by epoch."""
        number = self._number(trial_id)
        if number is not None and result.get(COMPLETED) != 1.0:
            self._keep_fidelity(number, result)

    @_timed
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
            "stage_keys": collect(result, "stage_keys"),
            "epoch": result.get("epoch"),
            "reason": verdict.reason,
        }
        self._store.note(number, **{k: v for k, v in attributes.items() if v})
        self.study.tell(number, verdict.values, state=verdict.state)
        self._numbers.pop(trial_id, None)

    def _on_rung(self, number: int, verdict: TrialOutcome) -> TrialOutcome:
        """Keep what a trial reached below the top of the ladder, where it is not complete."""
        trial = self.study.get_trials(deepcopy=False)[number]
        if self.ladder is None or verdict.values is None or rung_of(trial) == self.ladder.top:
            return verdict
        epochs = self.ladder.milestones[rung_of(trial)]
        self._store.note_value(number, epochs, verdict.values[0])
        return TrialOutcome(TrialState.PRUNED, reason=f"judged after {epochs} epochs")

    def _keep_fidelity(self, number: int, result: Mapping[str, Any]) -> None:
        """Store a running trial's value under its epoch, if there is one objective."""
        if len(self.objectives) > 1 or not {"epoch", self.fidelity.metric} <= result.keys():
            return
        value = number_of(result[self.fidelity.metric])
        same = self.fidelity.mode == self.objectives[0].mode
        self._store.note_value(number, int(result["epoch"]), value if same else -value)

    def _number(self, trial_id: str) -> int | None:
        """Return the Optuna trial of a Ray trial while it runs, else ``None``."""
        trials = self.study.get_trials(deepcopy=False)
        number = self._numbers.get(trial_id)
        if number is None:  # after a restore, the journal knows more than the snapshot
            found = (t.number for t in trials if t.user_attrs.get("ray_trial") == trial_id)
            number = next(found, None)
        running = number is not None and trials[number].state is TrialState.RUNNING
        return number if running else None

    def save(self, checkpoint_path: str) -> None:
        """Write which Ray trial is which Optuna trial; everything else is in the journal."""
        Path(checkpoint_path).write_text(json.dumps(self._numbers))

    def restore(self, checkpoint_path: str) -> None:
        """Read what `save` wrote: these trials go on, all other running ones have ended."""
        self._numbers = json.loads(Path(checkpoint_path).read_text())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open study behind: a copy opens the journal itself."""
        return self.__dict__ | {"_study": None}
