"""Finalists: the best recipes again on several seeds, then once on the test views."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.execute import execute, limit_threads, pick_device, rebuild
from orchestrator.figures import draw_all
from orchestrator.records import FinalistRecord, Interval, Objective, StageUse, TrialRecord
from orchestrator.store import StageStore
from orchestrator.tracking import Tracker
from trainables.context import Context
from trainables.experiment import Experiment
from trainables.settings import assign, flatten


def choose(
    trials: Sequence[TrialRecord], objectives: Sequence[Objective], count: int
) -> list[TrialRecord]:
    """Return the ``count`` best completed trials by validation objectives, best first.

    With several objectives, trials are ordered by the sum of their ranks, one rank per objective.
    Trials with equal objectives and equal results count once.
    """
    complete = [t for t in trials if t.state == "COMPLETE"]
    total = dict.fromkeys((t.trial_id for t in complete), 0.0)
    for objective in objectives:
        sign = -1.0 if objective.mode == "max" else 1.0
        values = {t.trial_id: sign * t.metrics[objective.metric] for t in complete}
        ordered = sorted(set(values.values()))
        for trial_id, value in values.items():
            total[trial_id] += ordered.index(value)
    ranked = sorted(complete, key=lambda t: (total[t.trial_id], t.number))
    chosen: list[TrialRecord] = []
    seen: set[str] = set()
    for trial in ranked:
        # the update's key stands for all that came before it: equal keys, equal model
        model = next((use.key for use in trial.stages if use.stage == "update"), trial.trial_id)
        score = next((use.key for use in trial.stages if use.stage == "score"), "")
        if model + score not in seen:
            seen.add(model + score)
            chosen.append(trial)
    return chosen[:count]


def is_baseline(trial: TrialRecord) -> bool:
    """Say whether a trial is the study's first, which tries the base recipe, and ended well.

    On a ladder that is its lowest rung; as a finalist it trains to the end, as all do.
    """
    ended = trial.state == "COMPLETE" or (trial.state == "PRUNED" and bool(trial.rung))
    return trial.number == 0 and ended


class SeedRun(NamedTuple):
    """One recipe on one seed: validation and test metrics."""

    seed: int
    validation: dict[str, float]
    test: dict[str, float]
    uses: list[StageUse]


def run_seed(
    tree: dict[str, Any],
    params: dict[str, Any],
    seed: int,
    storage: str,
    *,
    gpus: float,
    workers: int = 1,
) -> SeedRun:
    """Run a recipe with one seed in both worlds.

    The validation world only serves to choose among finalists; the test views are read once, by
    ``evaluate`` in the test world.
    """
    limit_threads(1)
    store = StageStore(storage)
    base = assign(rebuild(tree), {**params, "seed": seed})
    context = Context(device=pick_device(gpus if workers == 1 else 0.0), seed=seed)
    group: dict[str, Any] = {"workers": workers, "gpu": gpus > 0}
    validation = execute(assign(base, {"data.world": "validation"}), store, context, **group)
    test = execute(assign(base, {"data.world": "test"}), store, context, **group)
    uses = [*validation.uses, *test.uses]
    return SeedRun(seed, validation.metrics, test.metrics, uses)


def log_seeds(
    tracker: Tracker, trial: TrialRecord, runs: Sequence[SeedRun], folder: Path, base: Experiment
) -> list[str]:
    """Log one run per seed of a finalist; the first gets the model's folder. Return their names."""
    names: list[str] = []
    for run in runs:
        name = f"{trial.trial_id}-seed-{run.seed}"
        recipe = assign(base, {**trial.params, "seed": run.seed, "data.world": "test"})
        tracker.start_trial(
            name,
            trial.number,
            params=flatten(recipe),
            tags={"orchestrator.role": "finalist", "orchestrator.trial": trial.trial_id},
            experiment=recipe.model_dump(mode="json"),
        )
        entry = TrialRecord(
            trial_id=name,
            number=trial.number,
            state="COMPLETE",
            params=trial.params,
            metrics=run.test,
            seconds=sum(use.seconds for use in run.uses if not use.reused),
            stages=run.uses,
        )
        tracker.log_history(name, training_curve(run.uses))
        if not names:
            tracker.log_figures(name, draw_all(folder / "evaluation", run.uses))
        tracker.finish_trial(entry)
        names.append(name)
    return names


def training_curve(uses: Sequence[StageUse]) -> list[dict[str, float]]:
    """Return the reports of all stages that trained, one after the other, each stage once."""
    seen: set[str] = set()
    rows: list[dict[str, float]] = []
    for use in uses:
        if use.key not in seen:
            seen.add(use.key)
            rows.extend(use.history)
    return rows


def interval(values: Sequence[float]) -> Interval:
    """Return mean and 95 % t-interval; one value has an interval of its own width zero.

    Example:
        >>> interval([1.0, 2.0, 3.0]).mean
        2.0
        >>> round(interval([1.0, 2.0, 3.0]).high, 2)
        4.48
    """
    from scipy.stats import t as student_t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean=mean, low=mean, high=mean, values=list(values))
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(student_t.ppf(0.975, len(values) - 1)) * error
    return Interval(mean=mean, low=mean - half, high=mean + half, values=list(values))


def summarize(trial: TrialRecord, runs: Sequence[SeedRun], arrays: str | None) -> FinalistRecord:
    """Return a finalist's record: test metrics, and validation metrics as ``validation/...``."""
    metrics: dict[str, Interval] = {}
    for world in ("test", "validation"):
        found: list[dict[str, float]] = [getattr(run, world) for run in runs]
        for name in sorted(set.intersection(*(set(m) for m in found))):
            label = name if world == "test" else f"validation/{name}"
            metrics[label] = interval([m[name] for m in found])
    return FinalistRecord(
        trial_id=trial.trial_id,
        params=trial.params,
        seeds=[run.seed for run in runs],
        metrics=metrics,
        arrays=arrays,
    )


def winner(finalists: Sequence[FinalistRecord], objectives: Sequence[Objective]) -> FinalistRecord:
    """Return the finalist with the best validation objectives over seeds; test is not looked at."""
    totals = [0.0] * len(finalists)
    for objective in objectives:
        sign = -1.0 if objective.mode == "max" else 1.0
        name = f"validation/{objective.metric}"
        values = [sign * f.metrics[name].mean if name in f.metrics else math.inf for f in finalists]
        for position, value in enumerate(values):
            totals[position] += sum(other < value for other in values)
    return finalists[totals.index(min(totals))]
