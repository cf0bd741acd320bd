"""Search of a sweep: the study that proposes recipes, and Ray Tune, which runs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ray import tune

from orchestrator.execution.cluster import trial_resources
from orchestrator.options import SweepOptions
from orchestrator.records import Objective, SweepRecord
from orchestrator.search.sampler_names import SamplerPlan
from orchestrator.search.schedulers import make_scheduler
from orchestrator.search.searcher import StudySearcher
from orchestrator.trials.sweep_start import open_ladder
from orchestrator.trials.trial import TrialSpec, run_trial
from trainables.experiment import Experiment

if TYPE_CHECKING:
    from ray.tune import Callback, Tuner

FIDELITY_METRIC = "classify/validation_accuracy"  # what schedulers compare, per epoch


def open_searcher(
    options: SweepOptions,
    base: Experiment,
    record: SweepRecord,
    *,
    objectives: Sequence[Objective],
    sampler: SamplerPlan,
    folder: Path,
) -> StudySearcher:
    """Open the study; a new one tries the base recipe first: the baseline."""
    searcher = StudySearcher(
        folder=folder,
        space=options.space,
        base=base,
        objectives=objectives,
        num_trials=options.trials,
        seed=base.seed,
        fidelity=Objective(metric=FIDELITY_METRIC, mode="max"),
        ladder=open_ladder(options, base, record),
        sampler=sampler,
    )
    searcher.known = record.trials
    return searcher


def make_tuner(
    searcher: StudySearcher,
    options: SweepOptions,
    base: Experiment,
    *,
    storage: str,
    views_digest: str,
    folder: Path,
    at_once: int,
    callback: Callback,
) -> Tuner:
    """Return Ray Tune set up for what is left to try.

    Args:
        searcher: Proposes recipes until the asked number of trials ended.
        options: Options of the sweep.
        base: Recipe that trials change.
        storage: Storage of stage results.
        views_digest: Digest of the images, with which all trials must run.
        folder: Folder of the sweep.
        at_once: Number of trials that run at a time.
        callback: Hears of trials as they start and end.
    """
    spec = TrialSpec(
        experiment=base.model_dump(mode="json"),
        sweep=folder.name,
        storage=storage,
        objectives=tuple(o.metric for o in searcher.objectives),
        report_epochs=options.scheduler in ("asha", "hyperband"),
        gpus=options.gpus_per_trial,
        workers=options.train_workers,
        origin=os.getcwd(),
        views_digest=views_digest,
    )
    scheduler = make_scheduler(
        options.scheduler,
        metric=FIDELITY_METRIC,
        mode="max",
        # one more than there are: the last epoch of the classifier is not the trial's end
        max_epochs=sum(p.training.epochs for p in base.classify.phases()) + 1,
        folder=folder,
    )
    trainable: Callable[..., None] = tune.with_parameters(run_trial, spec=spec)
    return tune.Tuner(
        tune.with_resources(trainable, trial_resources(options)),
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
            storage_path=str(folder / "tune"),
            callbacks=[callback],
            verbose=0,
        ),
    )
