"""The main job: search, finalists on several seeds, report, promotion.

``python orchestrator/sweep.py`` on a laptop; ``ray submit cluster.yaml orchestrator/sweep.py`` on a
cluster. The same as the console command ``orchestrator sweep``.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # its own folder must not shadow modules, its project must be found
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    if (here.parent / "trainables").is_dir():
        sys.path.insert(0, str(here.parent))

from orchestrator.options import SweepOptions, local_folder

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ray.tune import Tuner
    from rich.console import Console

    from orchestrator.progress import SweepDisplay
    from orchestrator.records import FinalistRecord, SweepRecord, TrialRecord
    from orchestrator.registry import Registry
    from orchestrator.search import StudySearcher
    from orchestrator.tracking import Tracker
    from trainables.experiment import Experiment

# Imported while Ray starts; what imports parts of Ray comes last.
EARLY = (
    "torch",
    "optuna",
    "orchestrator.execute",
    "orchestrator.search",
    "orchestrator.schedulers",
    "orchestrator.callback",
)
INTERRUPTED = 130  # exit status that shells expect after Ctrl-C
FIDELITY_METRIC = "classify/validation_accuracy"  # what schedulers compare, per epoch


def run_sweep(options: SweepOptions, console: Console | None = None) -> SweepRecord:
    """Run a sweep from recipe to promoted model version, or go on with one of the same name.

    Raises:
        ConfigError: One line for what cannot work, before anything starts.
        SystemExit: Ctrl-C (status 130), after all was saved and the way to go on was shown.
    """
    from rich.console import Console as RichConsole

    from orchestrator.opening import folder_of, is_complete, open_ladder, open_record
    from orchestrator.progress import say_next_steps
    from trainables.experiment import load_experiment

    console = console or RichConsole()
    started = time.monotonic()
    base = load_experiment(options.experiment, options.sets)
    record = open_record(options, base)
    if is_complete(record, options):
        console.print(f"sweep '{record.name}' is complete; more --trials go on with it")
        say_next_steps(record, folder_of(options, record.name), console, done=True)
        return record
    open_ladder(options, base, record)  # one that leads nowhere is refused before Ray starts
    _start_ray(options, console)
    job = SweepJob(options, base, record, console)
    before = job.record.seconds
    try:
        job.search()
        if job.done:
            job.run_finalists()
            job.promote()
            job.discard_states()
    except KeyboardInterrupt:  # Tune takes the signal itself, but only while trials run
        job.done = False
    finally:
        job.record.seconds = before + time.monotonic() - started
        job.close()
    say_next_steps(job.record, job.folder, console, done=job.done)
    if not job.done:
        sys.exit(INTERRUPTED)
    return job.record


def _start_ray(options: SweepOptions, console: Console) -> None:
    """Start or join Ray, and import what a search needs while its processes come up."""
    import ray  # noqa: F401  (before the thread: nothing of Ray is imported by two at a time)

    from orchestrator.cluster import Importing, await_machines, connect_ray
    from trainables.lazy import load_deferred

    importing = Importing(EARLY)
    connect_ray(options.address, options.workers)
    if options.address is None:
        await_machines(console.print)
    importing.wait()
    load_deferred()


class SweepJob:
    """One sweep: its folder, record, tracker, and the steps from search to promotion.

    Args:
        options: What was asked for.
        base: The recipe that trials change.
        record: Of the sweep; see `open_record`.
        console: Where progress is shown.

    Raises:
        ConfigError: The recipe cannot run.
    """

    def __init__(
        self, options: SweepOptions, base: Experiment, record: SweepRecord, console: Console
    ) -> None:
        import search_spaces
        from orchestrator.opening import folder_of
        from orchestrator.options import parse_objective
        from trainables.pipeline import plan

        self.options, self.base, self.console = options, base, console
        self.done = False
        self.root = local_folder(options.storage)
        self.folder = folder_of(options, record.name)
        plan(base)  # a recipe that cannot run is refused before anything starts
        self.record = record
        if not record.objectives:
            record.objectives = [parse_objective(o) for o in search_spaces.objectives(record.study)]
        self.objectives = list(options.objectives or record.objectives)
        self.tracker = self._open_tracker()
        self._registry: Future[Registry] | None = None

    def _open_tracker(self) -> Tracker:
        from orchestrator.tracking import Tracker

        tracker = Tracker.open(None, self.root, "orchestrator", self.folder / "spool")
        self.record.tracking_uri = tracker.uri
        return tracker

    def search(self) -> None:
        """Try recipes until the asked number of trials ended, or Ctrl-C."""
        from orchestrator.cluster import concurrency, connect_ray
        from orchestrator.progress import SweepDisplay

        self._start_tracking()
        resources = connect_ray(self.options.address, self.options.workers)
        at_once = concurrency(self.options, resources)
        self._describe(resources)
        searcher = self._searcher()
        try:
            self._recover(searcher)
            if searcher.remaining:
                display = SweepDisplay(self.record, self.options.trials, self.console)
                with display:
                    self._tuner(searcher, at_once, display).fit()
            self.done = searcher.remaining == 0
        finally:
            searcher.close()

    def _recover(self, searcher: StudySearcher) -> None:
        """Add trials that ended just before an earlier run was killed."""
        from orchestrator.recovery import recover

        recover(
            self.record,
            searcher,
            self.base,
            storage=self._storage(),
            tracker=self.tracker,
            folder=self.folder,
        )

    def _searcher(self) -> StudySearcher:
        """Open the study; a new one tries the base recipe first: the baseline."""
        from orchestrator.opening import open_ladder
        from orchestrator.records import Objective
        from orchestrator.search import StudySearcher

        return StudySearcher(
            folder=self.folder,
            space=self.options.study,
            base=self.base,
            objectives=self.objectives,
            num_trials=self.options.trials,
            seed=self.base.seed,
            fidelity=Objective(metric=FIDELITY_METRIC, mode="max"),
            ladder=open_ladder(self.options, self.base, self.record),
        )

    def _tuner(self, searcher: StudySearcher, at_once: int, display: SweepDisplay) -> Tuner:
        """Return Ray Tune set up for what is left to try."""
        from ray import tune

        from orchestrator.callback import SweepCallback
        from orchestrator.cluster import trial_resources
        from orchestrator.schedulers import make_scheduler
        from orchestrator.trial import TrialSpec, run_trial

        spec = TrialSpec(
            experiment=self.record.experiment,
            storage=self._storage(),
            objectives=tuple(o.metric for o in self.objectives),
            report_epochs=self.options.scheduler in ("asha", "hyperband"),
            gpus=self.options.gpus_per_trial,
            workers=self.options.workers,
        )
        scheduler = make_scheduler(
            self.options.scheduler,
            metric=FIDELITY_METRIC,
            mode="max",
            # one more than there are: the last epoch of the classifier is not the trial's end
            max_epochs=sum(p.training.epochs for p in self.base.classify.phases()) + 1,
            folder=self.folder,
        )
        callback = SweepCallback(
            self.record, self.base, self.folder, self.tracker, display, searcher.try_again
        )
        return tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, spec=spec),
                trial_resources(self.options),
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,  # the searcher ends it: a recipe whose worker died comes again
                max_concurrent_trials=at_once,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"{datetime.now(UTC):%Y%m%d-%H%M%S}",
                storage_path=str(self.folder / "tune"),
                callbacks=[callback],
                verbose=0,
            ),
        )

    def _storage(self) -> str:
        """Return the stage storage with a local path made absolute: actors run elsewhere."""
        return self.options.storage if "://" in self.options.storage else str(self.root)

    def _start_tracking(self) -> None:
        from trainables.settings import flatten

        self.tracker.start_sweep(
            self.record.name,
            params=flatten(self.base),
            tags={
                "orchestrator.study": self.record.study,
                "orchestrator.seed": str(self.base.seed),
            },
            experiment=self.record.experiment,
        )

    def _describe(self, resources: dict[str, float]) -> None:
        """Note environment and data in the record."""
        from orchestrator.environment import environment
        from orchestrator.execute import cached_views

        self.record.environment = environment(resources)
        self.record.data = cached_views(self.base.data).summary

    def run_finalists(self) -> None:
        """Run the best recipes and the base recipe on every seed, then on the test views."""
        import ray

        from orchestrator.cluster import trial_resources
        from orchestrator.finalists import choose, is_baseline, run_seed
        from orchestrator.registry import open_aside

        chosen = choose(self.record.trials, self.objectives, self.options.finalists)
        tested = [trial.params for trial in chosen]
        chosen += [t for t in self.record.trials if is_baseline(t) and t.params not in tested]
        if not chosen:
            self.console.print("no trial completed: no finalists")
            return
        seeds = [self.base.seed + i for i in range(self.options.seeds)]
        each = trial_resources(self.options)
        task = ray.remote(num_cpus=each["cpu"], num_gpus=each["gpu"])(run_seed)
        pending = {
            trial.trial_id: [
                task.remote(
                    self.record.experiment,
                    trial.params,
                    seed,
                    self._storage(),
                    gpus=self.options.gpus_per_trial,
                    workers=self.options.workers,
                )
                for seed in seeds
            ]
            for trial in chosen
        }
        if self.options.promote:
            self._registry = open_aside(self.tracker.uri)
        self.record.finalists = [
            self._finalist(trial, ray.get(pending[trial.trial_id])) for trial in chosen
        ]
        self.record.save(self.folder)

    def _finalist(self, trial: TrialRecord, runs: list[Any]) -> FinalistRecord:
        """Log a finalist's seeds and return its record."""
        from orchestrator.finalists import log_seeds, summarize

        folder = self._model_folder(trial.trial_id)
        self._export(trial, runs[0].seed, folder)
        names = log_seeds(self.tracker, trial, runs, folder, self.base)
        arrays = str((folder / "evaluation").relative_to(self.folder))
        record = summarize(trial, runs, arrays)
        record.run_ids = names
        shown = [
            f"{o.metric.removeprefix('evaluate/')} {record.metrics[o.metric].mean:.4f}"
            f" {record.metrics[o.metric].bracket()}"
            for o in self.objectives
            if o.metric in record.metrics
        ]
        self.console.print(
            f"finalist trial {trial.number} on {len(runs)} seed{'s' * (len(runs) > 1)}, test: "
            f"{'  '.join(shown)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return record

    def _model_folder(self, trial_id: str) -> Path:
        return self.folder / "models" / trial_id

    def _export(self, trial: TrialRecord, seed: int, folder: Path) -> None:
        """Write a finalist's model; every stage of it is in the store, nothing is computed."""
        from orchestrator.execute import cached_views, export_model
        from trainables.inference import describe_model
        from trainables.settings import assign

        changes = {**trial.params, "seed": seed, "data.world": "test"}
        export_model(self.record.experiment, changes, self._storage(), folder)
        describe_model(folder, cached_views(assign(self.base, changes).data))

    def promote(self) -> None:
        """Register the winner (by validation objectives) and let the gates decide."""
        from orchestrator.comparison import gate_metrics
        from orchestrator.finalists import winner
        from orchestrator.promote import promote
        from orchestrator.registry import open_aside

        if not self.options.promote or not self.record.finalists:
            return
        best = winner(self.record.finalists, self.objectives)
        if not self.tracker.flush(120):
            self.console.print("the tracker does not answer: nothing was registered")
            return
        run_id = self.tracker.run_id(best.run_ids[0])
        if run_id is None:
            raise RuntimeError(f"the run of {best.run_ids[0]} did not arrive at {self.tracker.uri}")
        self.record.promotion = promote(
            gate_metrics(best),
            registry=(self._registry or open_aside(self.tracker.uri)).result(),
            model=self.options.model,
            folder=self._model_folder(best.trial_id),
            run_id=run_id,
            tags={"orchestrator.sweep": self.record.name, "orchestrator.trial": best.trial_id},
        )
        self.record.save(self.folder)

    def discard_states(self) -> None:
        """Remove what a ladder kept for recipes that might have been promoted."""
        from orchestrator.leftovers import discard_ended

        discard_ended(self.record, storage=self._storage(), folder=self.folder)

    def close(self) -> None:
        """Save the record, end the sweep's run, and stop the tracker."""
        self.record.save(self.folder)
        self.tracker.finish_sweep("FINISHED" if self.done else "KILLED")
        self.tracker.close()
        self.record.run_id = self.tracker.run_id("sweep")
        self.record.save(self.folder)


def main() -> None:
    """Run the ``sweep`` command with this process's arguments."""
    from orchestrator.cli import main as cli_main

    cli_main(["sweep", *sys.argv[1:]])


if __name__ == "__main__":
    main()
