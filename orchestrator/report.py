"""One self-contained HTML page per sweep: who won, why, what it cost, how to get it again."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from orchestrator import sweep_figures as sweep
from orchestrator.drawing import svg
from orchestrator.figures import evaluation_figures, load_arrays, training_curves
from orchestrator.progress import ending
from orchestrator.records import FinalistRecord, Interval, SweepRecord, TrialRecord
from orchestrator.summary import (
    Importance,
    bands,
    by_method,
    importance,
    measured,
    pareto_front,
    ranked,
    stage_reuse,
    value_of,
    varied,
)
from trainables.settings import canonical_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
MOST_CURVES = 3


class Picture(NamedTuple):
    """A figure on the page: SVG text, what it shows, and its width in inches."""

    svg: str
    caption: str
    width: float


def write_report(record: SweepRecord, folder: Path) -> Path:
    """Write ``report.html``, and ``winner.yaml`` where there is a winner, and return the page.

    The page needs no network: style, script and pictures are inside. It is written for any record,
    also of a sweep that was stopped or where every trial failed.

    Args:
        record: The sweep.
        folder: The sweep's folder, which also holds the finalists' evaluations.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder.mkdir(parents=True, exist_ok=True)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "short": sweep.short}
    environment.filters["ending"] = ending
    page = environment.get_template("report.html.j2").render(context(record, folder))
    target = folder / "report.html"
    draft = folder / "report.draft"
    draft.write_text(page, encoding="utf-8")
    draft.replace(target)
    return target


def context(record: SweepRecord, folder: Path) -> dict[str, Any]:
    """Return what the template shows."""
    best = _winner(record)
    order = ranked(record)
    scores = importance(record)
    rows = stage_reuse(record.trials)
    return {
        "record": record,
        "winner": best,
        "recipes": recipes(record),
        "numbers": {trial.trial_id: trial.number for trial in record.trials},
        "ranked": order,
        "first": order[0] if measured(record) else None,
        "params": varied(record.trials),
        "spans": _spans(record),
        "trial_bands": {t.trial_id: bands(t.metrics) for t in record.trials},
        "states": {s: sum(t.state == s for t in record.trials) for s in _states(record)},
        "reuse": rows,
        "asked": sum(r.asked for r in rows),
        "reused": sum(r.reused for r in rows),
        "saved": sum(r.saved for r in rows),
        "spent": sum(r.spent for r in rows),
        "importance": scores,
        "course": _course(record, best),
        "matters": _matters(record, scores),
        "finalists": _finalists(record),
        "evaluation": _evaluation(record, best, folder),
        "command": _reproduce(record, best, folder),
        "facts": {**record.environment, **{f"data {k}": v for k, v in _flat(record.data).items()}},
    }


def recipes(record: SweepRecord) -> int:
    """Return how many recipes were tried: on a ladder several trials may be of one."""
    if not any(trial.rung for trial in record.trials):
        return len(record.trials)
    return len({canonical_json(trial.params) for trial in record.trials})


def number(value: Any) -> str:
    """Return a value as a reader wants it: four significant digits, nothing for absence.

    Example:
        >>> number(0.123456), number(3), number(None), number("ldam"), number(1e-5)
        ('0.1235', '3', '', 'ldam', '1e-05')
    """
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return seconds in the two largest units.

    Example:
        >>> duration(0.25), duration(42), duration(171), duration(7300)
        ('0.2 s', '42 s', '2 min 51 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _winner(record: SweepRecord) -> FinalistRecord | None:
    """Return the finalist that validation chose."""
    from orchestrator.finalists import winner

    return winner(record.finalists, record.objectives) if record.finalists else None


def _number(record: SweepRecord, best: FinalistRecord | None) -> int | None:
    """Return the winning trial's number."""
    found = (t.number for t in record.trials if best is not None and t.trial_id == best.trial_id)
    return next(found, None)


def _states(record: SweepRecord) -> list[str]:
    return sorted({trial.state for trial in record.trials})


def _spans(record: SweepRecord) -> dict[str, tuple[float, float]]:
    """Return worst and best of each objective, between which the table's bars are drawn."""
    spans = {}
    for objective in record.objectives:
        found = [value_of(trial, objective.metric) for trial in record.trials]
        values = [value for value in found if value is not None]
        if values:
            ends = (min(values), max(values))
            spans[objective.metric] = ends if objective.mode == "max" else ends[::-1]
    return spans


def _picture(figure: Figure, caption: str) -> Picture:
    """Draw a figure for the page, which knows the namespaces that a file must name."""
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg(figure))
    return Picture(text, caption, round(float(figure.get_figwidth()), 2))


def _course(record: SweepRecord, best: FinalistRecord | None) -> list[Picture]:
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
    pictures = [_picture(sweep.course(points, objective, star), "Every trial, in order")]
    full = measured(record)
    if len(record.objectives) > 1 and full:
        names = [o.metric for o in record.objectives]
        front = pareto_front([[t.metrics[n] for n in names] for t in full], record.objectives)
        pairs = [(t.number, t.metrics[names[0]], t.metrics[names[1]]) for t in full]
        drawn = sweep.pareto(pairs, front, record.objectives, star)
        text = f"Pareto front: {sum(front)} of {len(full)} trials are beaten by no other"
        pictures.append(_picture(drawn, text))
    return pictures


def _matters(record: SweepRecord, scores: Importance | None) -> list[Picture]:
    """Draw what the result hung on: importances, then the settings by importance."""
    pictures, weight = [], scores.shares if scores is not None else {}
    if weight:
        text = "Parameter importance: what shuffling a parameter costs"
        pictures.append(_picture(sweep.importance_bars(weight), text))
    groups = sorted(by_method(record), key=lambda group: -weight.get(group.name, 0.0))
    found = [v for group in groups for values in group.methods.values() for v in values]
    for group in groups:
        drawn = sweep.method_strip(group, record.objectives[0], (min(found), max(found)))
        pictures.append(_picture(drawn, f"{group.name}: one dot a trial, the line is the mean"))
    return pictures


def _finalists(record: SweepRecord) -> list[Picture]:
    """Draw the finalists' test results with their intervals."""
    if not record.finalists:
        return []
    numbers = {trial.trial_id: trial.number for trial in record.trials}
    names = [f"trial {numbers.get(f.trial_id, f.trial_id)}" for f in record.finalists]
    pictures = []
    for objective in record.objectives:
        rows: dict[str, Interval] = {
            name: f.metrics[objective.metric]
            for name, f in zip(names, record.finalists, strict=True)
            if objective.metric in f.metrics
        }
        if rows:
            title = sweep.short(objective.metric)
            text = f"{title} on test: mean, 95 % interval, and each seed"
            pictures.append(_picture(sweep.intervals(rows, title), text))
    per_band = {n: bands(f.metrics) for n, f in zip(names, record.finalists, strict=True)}
    if any(per_band.values()):
        text = "Accuracy on test of classes with many, medium and few training images"
        pictures.append(_picture(sweep.band_bars(per_band), text))
    return pictures


CAPTIONS = {
    "confusion": "Known classes: share of each true class, in percent",
    "updated_confusion": "After the update: known and new classes (dashed: where the new begin)",
    "class_accuracy": "Accuracy per class over its number of training images",
    "confidence": "Confidence of known and new samples, and the threshold",
    "reliability": "Reliability: dots on the diagonal are well calibrated",
}


def _evaluation(record: SweepRecord, best: FinalistRecord | None, folder: Path) -> list[Picture]:
    """Draw the winner's evaluation on the test views and its training."""
    pictures = []
    if best is not None and best.arrays is not None:
        try:
            arrays = load_arrays(folder / best.arrays)
        except FileNotFoundError:
            logger.warning("report: no evaluation below %s", folder / best.arrays)
            arrays = {}
        limits = record.experiment.get("evaluate", {})
        known = {k: limits[k] for k in ("many_above", "few_below", "bins") if k in limits}
        pictures = [
            _picture(figure, CAPTIONS[name])
            for name, figure in evaluation_figures(arrays, **known).items()
        ]
    chosen = _trial_of(record, best)
    histories = {u.stage: u.history for u in chosen.stages if u.history} if chosen else {}
    for stage, rows in list(histories.items())[:MOST_CURVES]:
        pictures.append(_picture(training_curves(rows), f"Training curves of {stage}"))
    return pictures


def _trial_of(record: SweepRecord, best: FinalistRecord | None) -> TrialRecord | None:
    """Return the winner's trial, or the best trial of a sweep without finalists."""
    if best is not None:
        return next((t for t in record.trials if t.trial_id == best.trial_id), None)
    return ranked(record)[0] if measured(record) else None


def _reproduce(record: SweepRecord, best: FinalistRecord | None, folder: Path) -> str | None:
    """Write the winning recipe beside the page and return the command that runs it."""
    chosen = best or _trial_of(record, best)
    if chosen is None:
        return None
    from trainables.errors import ConfigError
    from trainables.experiment import Experiment
    from trainables.settings import assign, build

    sets: dict[str, Any] = {}
    if best is not None:
        sets = {"data.world": "test", "seed": best.seeds[0] if best.seeds else 0}
    tree: Mapping[str, Any] = record.experiment
    try:
        recipe = assign(build(Experiment, record.experiment), chosen.params)
        tree = recipe.model_dump(mode="json")
    except ConfigError as error:
        logger.warning("report: the recipe is kept as base and changes: %s", error)
        sets = {**chosen.params, **sets}
    target = folder / "winner.yaml"
    target.write_text(yaml.safe_dump(dict(tree), sort_keys=False), encoding="utf-8")
    texts = [f"--set {shlex.quote(f'{name}={_plain(value)}')}" for name, value in sets.items()]
    return " ".join(["python -m trainables", shlex.quote(str(target)), *texts])


def _plain(value: Any) -> str:
    """Return a value as ``--set`` reads it."""
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested facts as one level of names.

    Example:
        >>> _flat({"counts": {"train": 3}, "digest": "ab"})
        {'counts train': 3, 'digest': 'ab'}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name} ")
        else:
            flat[f"{prefix}{name}"] = (
                ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            )
    return flat
