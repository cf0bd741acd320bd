"""Finalists, the best recipes run on several seeds and evaluated once on the test set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from orchestrator.choice.selection import Answers, FoldAnswers
from orchestrator.choice.serving import Served
from orchestrator.execution.devices import pick_device, work_in
from orchestrator.execution.execute import execute, rebuild, validate
from orchestrator.execution.progress import ProgressMeter, published
from orchestrator.execution.store_executor import cached_views, check_views
from orchestrator.records import (
    SOUP,
    FinalistRecord,
    Interval,
    StageUse,
    TrialRecord,
    interval,
)
from orchestrator.report.class_figures import FigureSettings
from orchestrator.report.figures import draw_all
from orchestrator.store.stage_store import StageStore
from orchestrator.tracking.tracker import Tracker
from trainables.context import Context
from trainables.experiment import Experiment
from trainables.settings import assign, flatten
from trainables.threads import choose_threads

World = Literal["validation", "test"]


class WorldRun(NamedTuple):
    """Metrics of one recipe with one seed in one world, and its stage results.

    ``answers`` are those to validation images; ``None`` in the test world.
    """

    seed: int
    metrics: dict[str, float]
    uses: list[StageUse]
    answers: Answers | None


class SeedRun(NamedTuple):
    """Runs of one recipe with one seed in both worlds."""

    seed: int
    validation: WorldRun
    test: WorldRun

    @property
    def uses(self) -> list[StageUse]:
        """Stage results of both worlds."""
        return [*self.validation.uses, *self.test.uses]


Run = TypeVar("Run", WorldRun, SeedRun)


def run_seed(
    tree: dict[str, Any],
    params: dict[str, Any],
    seed: int,
    storage: str,
    *,
    world: World,
    gpus: float,
    progress: tuple[str, str],
    workers: int = 1,
    origin: str = "",
    views_digest: str = "",
) -> WorldRun:
    """Run a recipe with one seed in one world; ``progress`` is the sweep and the run's label.

    The validation serves to choose among finalists, and between the model before and the model
    after a finalist's update. The test set is read once, by ``evaluate`` in the test world.
    """
    choose_threads(1)
    work_in(origin)
    store = StageStore(storage)
    base = assign(rebuild(tree), {**params, "seed": seed})
    if views_digest and base.data == rebuild(tree).data:
        check_views(base.data, views_digest)
    sweep, label = progress
    meter = ProgressMeter(base, label)
    device = pick_device(gpus if workers == 1 else 0.0)
    context = Context(device=device, seed=seed, report=meter.report, progress=meter.count)
    options: dict[str, Any] = {"workers": workers, "gpu": gpus > 0, "begun": meter.begin}
    with published(meter, sweep):
        if world == "validation":
            found, arrays = validate(base, store, context, **options)
            answers = Answers.of(arrays)._replace(out_of_fold=fold_answers(found.artifacts, base))
            return WorldRun(seed, found.metrics, found.uses, answers)
        final = assign(base, {"data.world": base.data.final_world})
        found = execute(final, store, context, **options)
    return WorldRun(seed, found.metrics, found.uses, None)


def fold_answers(artifacts: Mapping[str, Any], recipe: Experiment) -> FoldAnswers | None:
    """Return which training images are answered right by fits without them, if there are any."""
    found = artifacts["out_of_fold"]
    if not len(found.logits):
        return None
    labels = cached_views(recipe.data).known_train.labels
    right = found.logits.argmax(1).numpy() == labels
    return FoldAnswers(labels, found.groups.numpy(), right.astype(np.float64))


def on_common_seeds(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """Return by trial the runs on the seeds that all finalists completed, which can be compared.

    Finalists without a completed seed are left out. If no seed is common to the others, those with
    the fewest are left out too, one by one.
    """
    found = {name: list(some) for name, some in runs.items() if some}
    while found:
        common = set.intersection(*({run.seed for run in some} for some in found.values()))
        if common:
            return {n: [run for run in some if run.seed in common] for n, some in found.items()}
        del found[min(found, key=lambda name: len(found[name]))]
    return {}


def log_failed_seed(
    tracker: Tracker, trial: TrialRecord, seed: int, base: Experiment, error: str
) -> None:
    """Log a finalist's run on a seed on which it failed."""
    name = _start_run(tracker, trial, recipe_of(trial, seed, base))
    entry = {"trial_id": name, "number": trial.number, "params": trial.params}
    tracker.finish_trial(TrialRecord(state="FAIL", error=error, **entry), once=True)


def recipe_of(trial: TrialRecord, seed: int, base: Experiment) -> Experiment:
    """Return a finalist's recipe with a seed, in the world that judges finalists."""
    return assign(base, {**trial.params, "seed": seed, "data.world": base.data.final_world})


def _start_run(
    tracker: Tracker, trial: TrialRecord, recipe: Experiment, figures: str = "none"
) -> str:
    """Start the run of a finalist's seed and return the run's name.

    Args:
        tracker: Tracker of the runs.
        trial: The finalist.
        recipe: Its recipe with the seed.
        figures: Which run has the figures, for the run's description.
    """
    name = f"{trial.trial_id}-seed-{recipe.seed}"
    what = f"The recipe of {trial.title}, trained with seed {recipe.seed} and tested once."
    tracker.start_trial(
        name,
        trial.number,
        params=flatten(recipe),
        tags={
            "orchestrator.role": "finalist",
            "orchestrator.trial": trial.trial_id,
            "mlflow.note.content": f"{what} Figures: {figures}.",
        },
        experiment=recipe.model_dump(mode="json"),
        name=f"finalist {_short(trial)} seed {recipe.seed}",
    )
    return name


def _short(trial: TrialRecord) -> str:
    return trial.title if trial.trial_id.startswith(SOUP) else f"{trial.number:03d}"


def log_seeds(
    tracker: Tracker,
    trial: TrialRecord,
    runs: Sequence[SeedRun],
    served: Served,
    folder: Path,
    base: Experiment,
) -> list[str]:
    """Log one run per seed of a finalist and return the runs' names; the first has the figures."""
    names: list[str] = []
    for run in runs:
        recipe = recipe_of(trial, run.seed, base)
        figures = f"on the run of seed {runs[0].seed}" if names else "here"
        name = _start_run(tracker, trial, recipe, figures)
        entry = TrialRecord(
            trial_id=name,
            number=trial.number,
            state="COMPLETE",
            params=trial.params,
            metrics=of_served(run.test.metrics, "test", served),
            seconds=sum(use.seconds for use in run.uses if not use.reused),
            stages=run.uses,
        )
        # once: a sweep that goes on runs its finalists again, from stored results
        tracker.log_history(name, training_curve(run.test.uses), once=True)
        if not names:
            summary = cached_views(recipe.data).summary
            settings = FigureSettings.of(recipe.evaluate.model_dump(), summary)
            drawn = draw_all(folder / "evaluation", run.test.uses, settings)
            tracker.log_files(name, drawn, path="figures")
        tracker.finish_trial(entry, once=True)
        names.append(name)
    return names


def training_curve(uses: Sequence[StageUse]) -> list[dict[str, float]]:
    """Return the reports of all stage results in order, each result once."""
    seen: set[str] = set()
    rows: list[dict[str, float]] = []
    for use in uses:
        if use.key not in seen:
            seen.add(use.key)
            rows.extend(use.history)
    return rows


# Metrics with values in [0, 1]. Of the others, counts and costs have no upper bound; likelihoods,
# forgetting and the strength of a correction have other ranges.
FRACTION = re.compile(
    r"(evaluate/)?(validation/|test/|out_of_fold/|first/|updated/)?"
    r"(accuracy|novelty|calibration/(ece|classwise_ece|mce)|update/accuracy"
    r"|pool/(precision|recall|unrelated)|discover/accuracy|features/knn_accuracy"
    r"|prior_shift/(forward|backward)_)"
)
OF_A_MODEL = re.compile(r"evaluate/(first|updated)/(.+)")


def of_served(metrics: Mapping[str, float], world: World, served: Served) -> dict[str, float]:
    """Return metrics with those of the model that answers under the names that gates read.

    ``evaluate/<served>/<m>`` becomes ``<world>/<m>``. In the test world the metrics of the other
    model are left out: the test set judges only the model that answers.

    Example:
        >>> both = {"evaluate/first/accuracy": 0.5, "evaluate/updated/accuracy": 0.25}
        >>> of_served(both, "test", "first")
        {'test/accuracy': 0.5}
        >>> sorted(of_served(both, "validation", "updated").items())[-1]
        ('validation/accuracy', 0.25)
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        match = OF_A_MODEL.fullmatch(name)
        if match is None or world == "validation":
            found[name] = value
        if match is not None and match[1] == served:
            found[f"{world}/{match[2]}"] = value
    return found


def summarize(
    trial: TrialRecord, runs: Sequence[SeedRun], served: Served, arrays: str | None
) -> FinalistRecord:
    """Return a finalist's record.

    Metrics of the model that answers are ``test/...`` and ``validation/...``; the other metrics of
    the validation are ``validation/evaluate/...``.
    """
    metrics: dict[str, Interval] = {}
    worlds: tuple[World, ...] = ("test", "validation")
    for world in worlds:
        found = [of_served(getattr(run, world).metrics, world, served) for run in runs]
        for name in sorted(set.intersection(*(set(m) for m in found))):
            stated = world == "test" or name.startswith("validation/")
            label = name if stated else f"validation/{name}"
            values = [m[name] for m in found]
            metrics[label] = interval(values, fraction=FRACTION.match(name) is not None)
    return FinalistRecord(
        trial_id=trial.trial_id,
        params=trial.params,
        seeds=[run.seed for run in runs],
        metrics=metrics,
        arrays=arrays,
        chosen={name: value for use in runs[0].uses for name, value in use.chosen.items()},
        served=served,
    )
