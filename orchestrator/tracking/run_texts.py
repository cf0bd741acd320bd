"""What MLflow shows of a sweep besides numbers: origin of its runs, dataset, descriptions."""

from __future__ import annotations

import getpass
import json
from pathlib import PurePath
from typing import Any

from orchestrator.records import FinalistRecord, ServiceRecord, SweepRecord, winner
from orchestrator.tracking.mlflow_client import TRAINING_MODE
from orchestrator.tracking.tracker import RunOrigin

REPORT = "report.html"  # artifact of the sweep's run
DIGEST_LENGTH = 16  # MLflow takes 36 characters and shows all of them


def origin_of(record: SweepRecord) -> RunOrigin:
    """Return what every run of a sweep is logged with: code, data and environment.

    Args:
        record: Record of the sweep, with its environment and data.
    """
    environment, data = record.environment, record.data
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": "orchestrator sweep",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": environment.get("git", "unknown"),
        "orchestrator.data_digest": str(data.get("source_digest", "unknown")),
        "orchestrator.protocol_hash": str(data.get("protocol_hash", "unknown")),
    }
    tags |= {f"orchestrator.environment.{name}": value for name, value in environment.items()}
    return RunOrigin(tags, dataset_of(data) if data else None)


def dataset_of(data: dict[str, Any]) -> dict[str, str]:
    """Return a sweep's data as a dataset of MLflow: its name, digest and sizes, but no path.

    Args:
        data: Summary of the views; see `trainables.data.views.Views`.

    Example:
        >>> found = dataset_of({"source": "folder:/home/ann/flowers/", "source_digest": "ab" * 32})
        >>> found["name"], found["digest"], found["source"]
        ('flowers', 'abababababababab', '{"source": "flowers"}')
    """
    source = str(data.get("source", "unknown"))
    kind, _, path = source.partition(":")
    name = (PurePath(path).name or kind) if path else source
    names = ("image_size", "class_counts", "known_class_names", "novel_class_names", "sizes")
    profile = {key: data[key] for key in names if key in data}
    return {
        "name": name,
        "digest": str(data.get("source_digest", "unknown"))[:DIGEST_LENGTH],
        "source": json.dumps({"source": name}),
        "profile": json.dumps(profile),
    }


def describe_version(record: SweepRecord, experiment_id: str | None) -> str:
    """Return the description of a registered version, in Markdown.

    Args:
        record: Record of the sweep, with finalists and its MLflow run.
        experiment_id: MLflow experiment of the sweep's run, for the link to the report; without it
            or the run there is no link.
    """
    best, service = winner(record), record.service
    rehearsed = service is not None and record.experiment["data"]["world"] != "service"
    title = record.titles.get(best.trial_id, best.trial_id)
    base = record.selection is not None and record.selection.base == best.trial_id
    seeds = ", ".join(map(str, best.seeds))
    lines = [
        f"{title[:1].upper()}{title[1:]}{', the base recipe,' if base else ''} of sweep "
        f"`{record.name}` (search space {record.space}, {len(record.trials)} trials), with seed "
        f"{best.seeds[0]}.",
        *([f"Selection: {record.selection.reason}."] if record.selection else []),
        *([] if service is None else [_of_service(service)]),
        f"{'In the rehearsal' if rehearsed else 'On the test set'}, over seeds {seeds}:",
        "\n".join(f"- {line}" for line in _objectives(record, best)),
    ]
    if experiment_id is not None and record.run_id is not None:
        place = f"#/experiments/{experiment_id}/runs/{record.run_id}"
        report = f"{place}/artifacts/{REPORT}?{TRAINING_MODE}"
        lines.append(f"[The sweep's run]({place}?{TRAINING_MODE}) has the [report]({report}).")
    return "\n\n".join(lines)


def _of_service(service: ServiceRecord) -> str:
    """Return what the version is where the winner was run once more with every class known."""
    known = f"This version knows all {service.classes} classes"
    own = service.metrics.get("test/accuracy/balanced")
    shown = f"; balanced accuracy of its own test answers: {own:.4f}" if own is not None else ""
    notes = "".join(f"\n- {note}" for note in service.notes)
    return f"{known}, from {service.images} training images, seed {service.seed}{shown}.{notes}"


def describe_sweep(record: SweepRecord) -> str:
    """Return the description of a sweep's run, in Markdown."""
    lines = [f"Search space {record.space}, sampler {record.sampler}: {len(record.trials)} trials."]
    if record.selection is not None:
        lines.append(f"Winner: {record.selection.winner}. {record.selection.reason}.")
    if record.promotion is not None:
        word = "is champion" if record.promotion.promoted else "was refused"
        lines.append(f"{record.promotion.model} version {record.promotion.version} {word}.")
    lines.append(f"The report is the artifact `{REPORT}`; `best/` has the best value so far.")
    return "\n\n".join(lines)


def winner_metrics(record: SweepRecord, best: FinalistRecord | None) -> dict[str, float]:
    """Return the metrics that a sweep's run ends with: time, and the winner's mean test results."""
    metrics = {"sweep/seconds": record.seconds}
    for objective in record.objectives if best is not None else ():
        assert best is not None
        if objective.metric in best.metrics:
            metrics[f"winner/{objective.metric}"] = best.metrics[objective.metric].mean
    return metrics


def _objectives(record: SweepRecord, best: FinalistRecord) -> list[str]:
    """Return a line for each objective with the winner's mean and interval."""
    return [
        f"{o.metric.removeprefix('evaluate/')}: {best.metrics[o.metric].mean:.4f} "
        f"{best.metrics[o.metric].bracket()}"
        for o in record.objectives
        if o.metric in best.metrics
    ]


def _user() -> str:
    """Return the name of the user, if the system knows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"
