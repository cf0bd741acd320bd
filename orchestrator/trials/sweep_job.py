"""One sweep as a job: search, finalists on several seeds, service run, promotion, report."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestrator.choice.finalist_choice import final_round_is_done
from orchestrator.execution.ctrl_c import keep_ctrl_c
from orchestrator.locking.sweep_lock import check_sweep
from orchestrator.options import SweepOptions, local_folder
from orchestrator.trials.failures import Failures, report, save_if_possible
from orchestrator.trials.interrupts import Interrupts
from orchestrator.trials.sweep_start import folder_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from rich.console import Console

    from orchestrator.execution.progress import RunProgress
    from orchestrator.execution.ray_watch import RayWatch
    from orchestrator.records import SweepRecord
    from orchestrator.registry.versions import Registry
    from orchestrator.search.sampler_names import SamplerPlan
    from orchestrator.search.searcher import StudySearcher
    from orchestrator.tracking.tracker import Tracker
    from trainables.experiment import Experiment


CONTENT_TAG = "orchestrator.content"  # of the sweep, by setting: digest of what its path leads to


class SweepJob:
    """One sweep: its folder, record, tracker, and the steps from search to promotion.

    Args:
        options: What was asked for.
        base: The recipe that trials change.
        record: Of the sweep; see `open_record`.
        console: Where progress is shown.
        sampler: Where new recipes come from.
        ray: Notices when Ray ends.

    Raises:
        ConfigError: The recipe cannot run.
    """

    def __init__(
        self,
        options: SweepOptions,
        base: Experiment,
        record: SweepRecord,
        console: Console,
        sampler: SamplerPlan,
        ray: RayWatch,
    ) -> None:
        import search_spaces
        from orchestrator.options import parse_objective
        from trainables.pipeline import plan

        self.options, self.base, self.console, self.sampler = options, base, console, sampler
        self.ray = ray
        self.done, self.status = False, "KILLED"
        self.root = local_folder(options.storage)
        self.folder = folder_of(options, record.name)
        plan(base)  # a recipe that cannot run is refused before anything starts
        self.record = record
        if not record.objectives:
            record.objectives = [parse_objective(o) for o in search_spaces.objectives(record.space)]
        self.objectives = list(options.objectives or record.objectives)
        self.failures = Failures(record, self._say)
        self.tracker = self._open_tracker()
        self._registry: Future[Registry] | None = None

    def _open_tracker(self) -> Tracker:
        from orchestrator.tracking.tracker import Tracker
        from trainables.text.redaction import redact

        tracker = Tracker.open(None, self.root, "orchestrator", self.folder / "spool")
        self.record.tracking_uri = redact(tracker.uri)
        return tracker

    @keep_ctrl_c()
    def run(self) -> None:
        """Search, test the finalists, serve and promote the winner; only what is not done yet."""
        self.search()
        if not self.done:
            return
        if not final_round_is_done(self.record, self.objectives, self.options):
            with self.failures.noted("finalist"):
                self.run_finalists()
        self.failures.forget("service")
        self.failures.forget("promotion")
        with self.failures.noted("service"):
            self.serve()
        if not self.failures.of("service"):
            with self.failures.noted("promotion"):
                self.promote()
        self.discard_states()
        missing = self.failures.of("service") or self.failures.of("promotion")
        failed = missing or not self.record.finalists
        self.status = "FAILED" if failed else "FINISHED"

    def search(self) -> None:
        """Try recipes until the asked number of trials ended, or Ctrl-C."""
        from orchestrator.execution.cluster import concurrency, connect_ray
        from orchestrator.trials.tuning import open_searcher

        resources = connect_ray(self.options.address, self.options.train_workers)
        at_once = concurrency(self.options, resources)
        self._describe(resources)
        self._start_tracking()
        searcher = open_searcher(
            self.options,
            self.base,
            self.record,
            objectives=self.objectives,
            sampler=self.sampler,
            folder=self.folder,
        )
        try:
            self._recover(searcher)
            if searcher.remaining:
                self._tune(searcher, at_once)
            self.done = searcher.remaining == 0
        finally:
            self.record.asking_seconds += searcher.seconds
            searcher.close()

    def _tune(self, searcher: StudySearcher, at_once: int) -> None:
        """Run trials in Ray Tune.

        Raises:
            KeyboardInterrupt: Ctrl-C, which Tune takes itself.
            InfrastructureError: Disk, host or Ray failed.
        """
        from orchestrator.execution.progress import forget_published
        from orchestrator.trials.callback import SweepCallback
        from orchestrator.trials.progress import SweepDisplay
        from orchestrator.trials.tuning import make_tuner

        forget_published(self.record.name)
        display = SweepDisplay(self.record, self.options.trials, self.console, self._running)
        with display, Interrupts(self.ray.lost) as interrupts:
            callback = SweepCallback(
                self.record,
                self.base,
                self.folder,
                self.tracker,
                display,
                searcher.try_again,
                searcher.annotate,
                interrupts,
            )
            make_tuner(
                searcher,
                self.options,
                self.base,
                storage=self._storage(),
                views_digest=self.record.data["views_digest"],
                folder=self.folder,
                at_once=at_once,
                callback=callback,
            ).fit()
        interrupts.check()

    def _running(self) -> list[RunProgress]:
        """Return the progress that trials and finalists tell."""
        from orchestrator.execution.progress import read_published

        return read_published(self.record.name)

    def _recover(self, searcher: StudySearcher) -> None:
        """Add trials that ended just before an earlier run was killed."""
        from orchestrator.trials.recovery import recover

        recover(
            self.record,
            searcher,
            self.base,
            storage=self._storage(),
            tracker=self.tracker,
            folder=self.folder,
        )

    def _storage(self) -> str:
        """Return the stage storage with a local path made absolute: actors run elsewhere."""
        return self.options.storage if "://" in self.options.storage else str(self.root)

    def _start_tracking(self) -> None:
        from orchestrator.tracking.run_texts import origin_of
        from trainables.settings import flatten

        self.tracker.start_sweep(
            self.record.name,
            params=flatten(self.base),
            tags={
                "orchestrator.study": self.record.space,
                "orchestrator.seed": str(self.base.seed),
                "orchestrator.sampler": self.record.sampler,
                **{f"{CONTENT_TAG}.{k}": v for k, v in self.record.content.items()},
            },
            experiment=self.record.experiment,
            origin=origin_of(self.record),
        )

    def _describe(self, resources: dict[str, float]) -> None:
        """Note environment and data in the record, and keep how the data was cut."""
        from orchestrator.environment import environment
        from trainables.threads import computed_with

        device = "cuda" if self.options.gpus_per_trial > 0 else "cpu"
        self.record.environment = computed_with() | environment(resources) | {"device": device}
        self.record.data = self._keep_protocol(self.base)

    def _keep_protocol(self, recipe: Experiment) -> dict[str, Any]:
        """Write classes and index lists of a recipe's world, and return what describes them."""
        from orchestrator.execution.store_executor import cached_views
        from orchestrator.store.protocol_files import save_protocol
        from orchestrator.trials.data_look import describe_images

        views = cached_views(recipe.data)
        save_protocol(self.folder, views.summary, views.index_lists)
        return describe_images(recipe.data)

    def run_finalists(self) -> None:
        """Retrain the best recipes and the base recipe on fresh seeds, and choose the winner."""
        from orchestrator.registry.versions import open_aside
        from orchestrator.trials.final_round import FinalRound
        from orchestrator.trials.progress import RunningDisplay
        from trainables.settings import assign

        check_sweep(self.folder)
        final = FinalRound(
            self.options, self.base, self.record, self.console, self.tracker, self.folder
        )
        chosen = final.choose(self.objectives)
        if chosen:
            pending = final.start(chosen, self._storage())
            if self.options.promote:
                self._registry = open_aside(self.tracker.uri)
            with RunningDisplay(self.console, self._running):
                final.finish(chosen, pending, self.objectives, self._storage())
            judged_in = {"data.world": self.base.data.final_world}
            self._keep_protocol(assign(self.base, judged_in))

    def serve(self) -> None:
        """Run the choice of a sweep on one's own images once more, with every class known."""
        from orchestrator.records import winner
        from orchestrator.registry.comparison import gate_metrics
        from orchestrator.registry.promote import disqualifications
        from orchestrator.trials.progress import RunningDisplay
        from orchestrator.trials.service_recipe import ends_in_service
        from orchestrator.trials.service_round import ServiceRound

        check_sweep(self.folder)
        asked = self.options.promote and self.record.finalists and ends_in_service(self.base)
        if not asked or disqualifications(gate_metrics(winner(self.record))):
            return
        last = ServiceRound(
            self.options, self.base, self.record, self.console, self.tracker, self.folder
        )
        with RunningDisplay(self.console, self._running):
            last.run(self._storage())

    def promote(self) -> None:
        """Register the winner (by validation objectives) and let the gates decide."""
        from orchestrator.registry.gate_settings import choose_gates
        from orchestrator.registry.promote import SWEEP_TAG, promote
        from orchestrator.registry.versions import open_aside
        from orchestrator.tracking.mlflow_runs import identity
        from orchestrator.tracking.run_texts import describe_version
        from orchestrator.trials.service_round import candidate_of

        check_sweep(self.folder)
        if not self.options.promote or not self.record.finalists:
            return
        made = candidate_of(self.record)
        if not self.tracker.flush(120):
            raise RuntimeError("the tracker does not answer: nothing was registered")
        self._note_runs()
        registry = (self._registry or open_aside(self.tracker.uri)).result()
        # of an earlier start, if its finalists stand
        run_id = self.tracker.run_id(made.run) or registry.find_run(
            identity(self.record.name, made.run)
        )
        if run_id is None:
            where = self.record.tracking_uri
            raise RuntimeError(f"the run of {made.run} did not arrive at {where}")
        self.record.promotion = promote(
            made.metrics,
            registry=registry,
            model=self.options.model,
            folder=self.folder / made.folder,
            run_id=run_id,
            tags={SWEEP_TAG: self.record.name, "orchestrator.trial": made.trial_id},
            description=describe_version(self.record, registry.experiment_id(run_id)),
            gates=choose_gates(self.options.gates),
            data=self.base.data,
        )
        self.record.save(self.folder)

    def discard_states(self) -> None:
        """Remove what a ladder kept for recipes that might have been promoted."""
        from orchestrator.execution.state_cleanup import discard_ended

        check_sweep(self.folder)
        discard_ended(self.record, storage=self._storage(), folder=self.folder)

    def close(self, fault: str | None = None) -> str | None:
        """Save the record, write the report, end the sweep's run, and stop the tracker.

        Args:
            fault: What ended the sweep, if disk, host or Ray did: MLflow is not waited for then.

        Returns:
            What failed in one line, if the disk did: the record on it is the last one that fitted.
        """
        if not self.done:  # an interrupted trial is tried again, under a new number
            self.record.trials = [t for t in self.record.trials if t.state != "RUNNING"]
        fault = save_if_possible(self.record, self.folder) or fault
        arrived = self.tracker.flush(5.0 if fault else 60.0)
        self._note_runs()
        fault = report(self.record, self.folder, self.console) or fault
        if self.failures.of("report") and self.status == "FINISHED":
            self.status = "FAILED"
        self._track_end()
        self.tracker.close(60.0 if arrived else 1.0)
        return save_if_possible(self.record, self.folder) or fault

    def _note_runs(self) -> None:
        """Note the MLflow runs of sweep and trials, as far as they arrived, in record and study."""
        from orchestrator.search.sweep_study import link_runs

        self.record.run_id = self.tracker.run_id("sweep") or self.record.run_id
        for trial in self.record.trials:
            trial.run_id = self.tracker.run_id(trial.trial_id) or trial.run_id
        runs = {trial.trial_id: trial.run_id for trial in self.record.trials if trial.run_id}
        with suppress(OSError):  # a full disk is said when the record is saved
            link_runs(self.folder, self.objectives, runs)

    def _track_end(self) -> None:
        """Log report and protocol, and end the sweep's run with its description and results."""
        from orchestrator.records import winner
        from orchestrator.tracking import run_texts

        kept = [self.folder / run_texts.REPORT, *sorted(self.folder.glob("protocol-*.json"))]
        self.tracker.log_files("sweep", {path.name: path for path in kept if path.is_file()})
        best = winner(self.record) if self.record.finalists else None
        self.tracker.finish_sweep(
            self.status,
            metrics=run_texts.winner_metrics(self.record, best),
            tags={"mlflow.note.content": run_texts.describe_sweep(self.record)}
            | self._failed_steps(),
            step=len(self.record.trials),
        )

    def _failed_steps(self) -> dict[str, str]:
        """Return the tag of the sweep's run that lists failures, if there are any."""
        listed = "; ".join(map(str, self.record.failures))
        return {"orchestrator.failures": listed} if listed else {}

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
