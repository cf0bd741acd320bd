"""Calls that log metrics, parameters and tags within the limits of every MLflow server."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

METRICS_PER_CALL, PARAMS_PER_CALL, TEXT_LIMIT = 1000, 100, 5000
_FORBIDDEN = re.compile(r"[^\w\-. /:]")


def log_params(
    client: Any, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> None:
    """Log parameters and tags in calls of a size that servers accept."""
    from mlflow.entities import Param, RunTag

    all_tags = [RunTag(k, v) for k, v in tags.items()]
    all_params = [Param(allowed_name(k), short_text(v)) for k, v in params.items()]
    for start in range(0, max(len(all_params), len(all_tags)), PARAMS_PER_CALL):
        part = slice(start, start + PARAMS_PER_CALL)
        client.log_batch(run_id, params=all_params[part], tags=all_tags[part])


def log_dataset(client: Any, run_id: str, dataset: Mapping[str, str]) -> None:
    """Log what a run was trained on, as a dataset of MLflow.

    Args:
        client: An ``MlflowClient``.
        run_id: The run.
        dataset: ``name``, ``digest`` (at most 36 characters), ``source`` (JSON), and ``profile``
            (JSON), which MLflow shows.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(
        name=dataset["name"],
        digest=dataset["digest"],
        source_type="local",
        source=dataset["source"],
        profile=dataset["profile"],
    )
    tag = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, [DatasetInput(dataset=entity, tags=[tag])])


def log_rows(
    client: Any,
    run_id: str,
    rows: Iterable[tuple[int, int, Mapping[str, float]]],
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log metrics, rows of (time in ms, step, values), in calls of a size that servers accept.

    The tags, fewer than one call accepts, are part of the first call, because a call takes as long
    as a hundred values.
    """
    from mlflow.entities import Metric, RunTag

    metrics = [
        Metric(allowed_name(key), float(value), time, step)
        for time, step, values in rows
        for key, value in values.items()
    ]
    sent = [RunTag(k, v) for k, v in (tags or {}).items()]
    room = METRICS_PER_CALL - len(sent)
    for start in range(0, max(len(metrics), len(sent)), room):
        client.log_batch(run_id, metrics=metrics[start : start + room], tags=sent)
        sent = []


def quoted(value: str) -> str:
    """Return a value for MLflow's filter language, with single quotes doubled."""
    return value.replace("'", "''")


def allowed_name(key: str) -> str:
    """Return a name without the characters that MLflow refuses, shortened to 250 characters."""
    return _FORBIDDEN.sub("_", key)[:250]


def short_text(value: Any) -> str:
    """Return a parameter or tag as text, shortened to a length that every MLflow store accepts."""
    if isinstance(value, float) and math.isfinite(value):
        value = repr(value)
    text = str(value)
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 4]} ..."
