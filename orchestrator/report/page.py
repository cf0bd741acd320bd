"""HTML report of a sweep: winner, promotion, search, cost, and how to reproduce the winner."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.locking.sweep_lock import write_file
from orchestrator.records import FinalistRecord, SweepRecord
from orchestrator.report import sweep_figures as sweep
from orchestrator.report.class_figures import class_rows
from orchestrator.report.pictures import (
    evaluation_pictures,
    figure_settings,
    finalist_pictures,
    search_pictures,
    setting_pictures,
    winner_arrays,
)
from orchestrator.report.service_lines import is_rehearsal, service_lines
from orchestrator.report.summary import (
    Importance,
    bands,
    ending,
    importance,
    measured,
    ranked,
    stage_reuse,
    trial_of,
    value_of,
    varied,
)
from trainables.data.source_names import with_last_names
from trainables.settings import canonical_json
from trainables.text.yaml_text import format_value, format_yaml

logger = logging.getLogger(__name__)

COMPUTED_WITH = ("device", "threads")  # options of `python -m trainables`; figures depend on them
TEMPLATES = Path(__file__).parent / "templates"


def write_report(record: SweepRecord, folder: Path) -> Path:
    """Write ``report.html`` and the best recipe, ``winner.yaml``, and return the page's path.

    The page contains its style, script and pictures, so it needs no network. Records of stopped
    sweeps, and of sweeps in which every trial failed, have a page too.

    Args:
        record: Record of the sweep.
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
    variables = context(_with_last_names(record), folder)
    variables["command"] = _reproduce(record, _winner(record), folder)
    page = environment.get_template("report.html.j2").render(variables)
    target = folder / "report.html"
    write_file(target, page.encode())
    return target


def context(record: SweepRecord, folder: Path) -> dict[str, Any]:
    """Return the variables of the template, all but the command that runs the winner again."""
    best = _winner(record)
    order = ranked(record)
    scores = importance(record)
    rows = stage_reuse(record.trials)
    arrays, settings = winner_arrays(best, folder), figure_settings(record, folder)
    return {
        "record": record,
        "winner": best,
        "caution": _caution(best),
        "recipes": recipes(record),
        "titles": record.titles,
        "ranked": order,
        "first": order[0] if measured(record) else None,
        "params": varied(record.trials),
        "weighty": weighty(record, scores),
        "spans": _spans(record),
        "trial_bands": {t.trial_id: bands(t.metrics) for t in record.trials},
        "states": {s: sum(t.state == s for t in record.trials) for s in _states(record)},
        "reuse": rows,
        "asked": sum(r.asked for r in rows),
        "reused": sum(r.reused for r in rows),
        "saved": sum(r.saved for r in rows),
        "spent": sum(r.spent for r in rows),
        "importance": scores,
        "search": search_pictures(record, best),
        "settings": setting_pictures(record, scores),
        "finalists": finalist_pictures(record),
        "evaluation": evaluation_pictures(record, best, arrays, settings),
        "classes": class_rows(arrays, settings),
        "facts": _facts(record),
        "service": service_lines(record),
        "rehearsal": is_rehearsal(record),
    }


def recipes(record: SweepRecord) -> int:
    """Return the number of distinct recipes; on a ladder several trials share a recipe."""
    if not any(trial.rung for trial in record.trials):
        return len(record.trials)
    return len({canonical_json(trial.params) for trial in record.trials})


def weighty(record: SweepRecord, scores: Importance | None) -> list[str]:
    """Return the parameters that vary, the most important first; methods first without scores."""
    share = scores.shares if scores is not None else {}
    chosen = {name for t in record.trials for name, v in t.params.items() if isinstance(v, str)}
    return sorted(varied(record.trials), key=lambda n: (-share.get(n, 0.0), n not in chosen))


def number(value: Any) -> str:
    """Return a value as text with four significant digits; ``None`` gives an empty text.

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
    """Return the finalist with the best validation objectives, if there are finalists."""
    from orchestrator.records import winner

    return winner(record) if record.finalists else None


def _caution(best: FinalistRecord | None) -> str:
    """Return what the origin of the winner's trunk means for figures on new classes."""
    if best is None or not best.pretrained_on:
        return ""
    from trainables.weights.provenance import caution

    return caution(best.pretrained_on, best.met_classes)


def _with_last_names(record: SweepRecord) -> SweepRecord:
    """Return a record for others to read, in which paths to elsewhere are cut to last names."""
    return SweepRecord.model_validate(with_last_names(record.model_dump()))


def _facts(record: SweepRecord) -> dict[str, Any]:
    """Return environment, data, and the digest of what each path of the recipe led to."""
    data = {f"data {name}": value for name, value in _flat(record.data).items()}
    content = {f"content of {name}": digest[:16] for name, digest in record.content.items()}
    return {**record.environment, **data, **content}


def _states(record: SweepRecord) -> list[str]:
    return sorted({trial.state for trial in record.trials})


def _spans(record: SweepRecord) -> dict[str, tuple[float, float]]:
    """Return the worst and the best value of each objective, the ends of the table's bars."""
    spans = {}
    for objective in record.objectives:
        found = [value_of(trial, objective.metric) for trial in record.trials]
        values = [value for value in found if value is not None]
        if values:
            ends = (min(values), max(values))
            spans[objective.metric] = ends if objective.mode == "max" else ends[::-1]
    return spans


def _reproduce(record: SweepRecord, best: FinalistRecord | None, folder: Path) -> str | None:
    """Write the best recipe as ``winner.yaml`` and return the command that runs it."""
    chosen = best or trial_of(record, best)
    if chosen is None:
        return None
    from trainables.errors import ConfigError
    from trainables.experiment import Experiment
    from trainables.settings import assign, build

    sets: dict[str, Any] = {}
    if best is not None:
        world = record.experiment.get("data", {}).get("world")
        final = world if world == "service" else "test"
        sets = {"data.world": final, "seed": best.seeds[0] if best.seeds else 0, **best.chosen}
    tree: Mapping[str, Any] = record.experiment
    try:
        recipe = assign(build(Experiment, record.experiment), chosen.params)
        tree = recipe.model_dump(mode="json")
    except ConfigError as error:
        logger.warning(
            "report: winner.yaml holds the base recipe, the command sets the changes: %s", error
        )
        sets = {**chosen.params, **sets}
    target = folder / "winner.yaml"
    target.write_text(format_yaml(dict(tree)), encoding="utf-8")
    texts = [
        f"--set {shlex.quote(f'{name}={format_value(value)}')}" for name, value in sets.items()
    ]
    texts += [
        f"--{name} {shlex.quote(record.environment[name])}"
        for name in COMPUTED_WITH
        if name in record.environment
    ]
    here = Path.cwd()  # where relative paths of the recipe hold, and the command is given
    shown = target.relative_to(here) if target.is_relative_to(here) else target
    return " ".join(["python -m trainables", shlex.quote(str(shown)), *texts])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values as a flat mapping.

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
