"""Pictures of the report: the figures of a sweep as SVG with a caption."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.records import FinalistRecord, Interval, SweepRecord
from orchestrator.report import sweep_figures as sweep
from orchestrator.report.class_figures import FigureSettings
from orchestrator.report.drawing import svg
from orchestrator.report.figures import (
    DamagedArraysError,
    evaluation_figures,
    load_arrays,
    training_curves,
)
from orchestrator.report.summary import (
    Importance,
    bands,
    by_method,
    measured,
    pareto_front,
    trial_of,
    value_of,
)
from orchestrator.store.protocol_files import load_protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

MOST_CURVES = 3


class Picture(NamedTuple):
    """A figure of the page: SVG text, caption, and width in inches."""

    svg: str
    caption: str
    width: float


def _number(record: SweepRecord, best: FinalistRecord | None) -> int | None:
    """Return the winning trial's number."""
    found = (t.number for t in record.trials if best is not None and t.trial_id == best.trial_id)
    return next(found, None)


def _picture(figure: Figure, caption: str) -> Picture:
    """Return a figure as inline SVG, which needs no XML namespaces in HTML."""
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg(figure))
    return Picture(text, caption, round(float(figure.get_figwidth()), 2))


def search_pictures(record: SweepRecord, best: FinalistRecord | None) -> list[Picture]:
    """Draw the search: objective by trial, and the Pareto front of two objectives."""
    if not record.objectives:
        return []
    objective = record.objectives[0]
    points = [
        (trial.number, value, trial.state == "COMPLETE")
        for trial in record.trials
        if (value := value_of(trial, objective.metric)) is not None
    ]
    if not points:
        return []
    star = _number(record, best)
    pictures = [
        _picture(
            sweep.optimization_history(points, objective, star),
            "Objective by trial, in the order of the search",
        )
    ]
    full = measured(record)
    if len(record.objectives) > 1 and full:
        names = [o.metric for o in record.objectives]
        front = pareto_front([[t.metrics[n] for n in names] for t in full], record.objectives)
        pairs = [(t.number, t.metrics[names[0]], t.metrics[names[1]]) for t in full]
        drawn = sweep.pareto(pairs, front, record.objectives, star)
        text = f"Pareto front of {sum(front)} among {len(full)} trials"
        pictures.append(_picture(drawn, text))
    return pictures


def setting_pictures(record: SweepRecord, scores: Importance | None) -> list[Picture]:
    """Draw the parameter importances, then the results by method of each setting."""
    pictures, weight = [], scores.shares if scores is not None else {}
    if weight:
        text = "Permutation importance: rise of the error when a parameter is shuffled"
        pictures.append(_picture(sweep.importance_bars(weight), text))
    groups = sorted(by_method(record), key=lambda group: -weight.get(group.name, 0.0))
    found = [v for group in groups for values in group.methods.values() for v in values]
    for group in groups:
        drawn = sweep.method_strip(group, record.objectives[0], (min(found), max(found)))
        pictures.append(_picture(drawn, f"{group.name}: each dot is a trial, the line is the mean"))
    return pictures


def finalist_pictures(record: SweepRecord) -> list[Picture]:
    """Draw the finalists' test results with their intervals."""
    if not record.finalists:
        return []
    names = [record.titles[f.trial_id] for f in record.finalists]
    pictures = []
    for objective in record.objectives:
        rows: dict[str, Interval] = {
            name: f.metrics[objective.metric]
            for name, f in zip(names, record.finalists, strict=True)
            if objective.metric in f.metrics
        }
        if rows:
            title = sweep.short(objective.metric)
            text = f"{title} on the test set: mean, 95 % interval, and each seed"
            pictures.append(_picture(sweep.intervals(rows, title), text))
    per_band = {n: bands(f.metrics) for n, f in zip(names, record.finalists, strict=True)}
    if any(per_band.values()):
        text = "Test accuracy of classes with many, medium and few training images"
        pictures.append(_picture(sweep.band_bars(per_band), text))
    return pictures


CAPTIONS = {
    "confusion": "Confusion matrix of the known classes, in percent of each true class",
    "updated_confusion": "Confusion matrix after the update; lines separate known and new classes",
    "class_accuracy": "Training images and accuracy of each class",
    "confidence": "Confidence of known and new samples, and the threshold",
    "reliability": "Reliability diagram; dots on the diagonal are calibrated",
}


def figure_settings(record: SweepRecord, folder: Path) -> FigureSettings:
    """Return bands, bins and class names of a sweep's figures on the test set.

    The record describes the world of the search, in which other classes are new; without the
    protocol of the test world only the known classes have names.
    """
    protocol = load_protocol(folder, "test")
    known = {"known_class_names": record.data.get("known_class_names", ())}
    data = protocol["summary"] if protocol is not None else known
    return FigureSettings.of(record.experiment.get("evaluate", {}), data)


def winner_arrays(best: FinalistRecord | None, folder: Path) -> dict[str, Any]:
    """Return the arrays of the winner's evaluation; empty without an evaluation."""
    if best is None or best.arrays is None:
        return {}
    try:
        return load_arrays(folder / best.arrays)
    except (OSError, DamagedArraysError) as error:
        logger.warning("report: the evaluation in %s is left out: %s", folder / best.arrays, error)
        return {}


def evaluation_pictures(
    record: SweepRecord,
    best: FinalistRecord | None,
    arrays: Mapping[str, Any],
    settings: FigureSettings,
) -> list[Picture]:
    """Draw the winner's test results, which are of its first seed, and training curves."""
    seed = f" (seed {best.seeds[0]})" if best is not None and best.seeds else ""
    pictures = [
        _picture(figure, CAPTIONS[name] + seed)
        for name, figure in evaluation_figures(arrays, settings).items()
    ]
    chosen = trial_of(record, best)
    histories = {u.stage: u.history for u in chosen.stages if u.history} if chosen else {}
    for stage, rows in list(histories.items())[:MOST_CURVES]:
        pictures.append(_picture(training_curves(rows), f"Training curves of {stage}"))
    return pictures
