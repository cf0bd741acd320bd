"""Summary of a sweep's record: ranks, Pareto front, importances, reuse, results by method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.records import FinalistRecord, Objective, Scalar, SweepRecord, TrialRecord
from orchestrator.report.drawing import BANDS
from trainables.errors import ConfigError

STATES = ("COMPLETE", "PRUNED", "RUNNING", "FAIL")
SHUFFLES = 20
FEWEST_TRIALS = 8  # importances of fewer trials would be noise


def readable_records(folders: Iterable[Path]) -> tuple[list[SweepRecord], list[str]]:
    """Return the sweeps of folders, oldest first, and one line for each that is damaged."""
    found: list[SweepRecord] = []
    damaged: list[str] = []
    for folder in sorted(folders):
        try:
            found.append(SweepRecord.load(folder))
        except ConfigError as error:
            damaged.append(str(error))
    return sorted(found, key=lambda record: record.started), damaged


def ending(trial: TrialRecord) -> str:
    """Return a trial's state as text, with the number of epochs on a ladder's rung.

    Example:
        >>> rung = {"classify.training.until": 4}
        >>> ending(TrialRecord(trial_id="t", number=0, state="PRUNED", params={}, rung=rung))
        'pruned after 4 epochs'
    """
    epochs = trial.rung.get("classify.training.until")
    return f"{trial.state.lower()} after {epochs} epochs" if epochs else trial.state.lower()


def value_of(trial: TrialRecord, metric: str) -> float | None:
    """Return a trial's value of a metric; ``None`` if absent or not finite."""
    value = trial.metrics.get(metric)
    return value if value is not None and math.isfinite(value) else None


def measured(record: SweepRecord) -> list[TrialRecord]:
    """Return the completed trials that have every objective."""
    names = [objective.metric for objective in record.objectives]
    return [
        trial
        for trial in record.trials
        if trial.state == "COMPLETE" and all(value_of(trial, n) is not None for n in names)
    ]


def ranked(record: SweepRecord) -> list[TrialRecord]:
    """Return all trials, best first.

    With several objectives, trials are ordered by the sum of their ranks, one rank per objective.
    Trials that did not complete come last, in the order of `STATES`.
    """
    full = measured(record)
    totals = dict.fromkeys((t.trial_id for t in full), 0)
    for objective in record.objectives:
        sign = -1.0 if objective.mode == "max" else 1.0
        values = {t.trial_id: sign * t.metrics[objective.metric] for t in full}
        ordered = sorted(set(values.values()))
        for trial_id, value in values.items():
            totals[trial_id] += ordered.index(value)
    last = len(full) * len(record.objectives) + 1
    return sorted(
        record.trials,
        key=lambda t: (totals.get(t.trial_id, last), STATES.index(t.state), t.number),
    )


def trial_of(record: SweepRecord, best: FinalistRecord | None) -> TrialRecord | None:
    """Return the winner's trial, or the best trial of a sweep without finalists."""
    if best is not None:
        return next((t for t in record.trials if t.trial_id == best.trial_id), None)
    return ranked(record)[0] if measured(record) else None


def pareto_front(points: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[bool]:
    """Return for each point whether it is on the Pareto front, dominated by no other point.

    Example:
        >>> both = [Objective(metric="a", mode="max"), Objective(metric="b", mode="min")]
        >>> pareto_front([(1.0, 5.0), (2.0, 5.0), (0.0, 1.0)], both)
        [False, True, True]
    """
    signs = [1.0 if objective.mode == "max" else -1.0 for objective in objectives]
    signed = [[s * v for s, v in zip(signs, point, strict=True)] for point in points]
    return [
        not any(
            all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine
            for other in signed
        )
        for mine in signed
    ]


def varied(trials: Sequence[TrialRecord]) -> list[str]:
    """Return the parameters with more than one value; absence counts as a value."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    absent = object()
    return [n for n in names if len({_hashable(t.params.get(n, absent)) for t in trials}) > 1]


def _hashable(value: object) -> tuple[type, object]:
    return (type(value), value)


class MethodResults(NamedTuple):
    """Values of the first objective by method, for one setting that names a method."""

    name: str
    methods: dict[str, list[float]]


def by_method(record: SweepRecord) -> list[MethodResults]:
    """Return the results by method of each setting with several methods, best mean first."""
    if not record.objectives:
        return []
    objective = record.objectives[0]
    sign = -1.0 if objective.mode == "max" else 1.0
    full = measured(record)
    groups = []
    for name in varied(full):
        found: dict[str, list[float]] = {}
        for trial in full:
            choice = trial.params.get(name)
            if isinstance(choice, str):
                found.setdefault(choice, []).append(trial.metrics[objective.metric])
        if len(found) > 1:
            order = sorted(found, key=lambda m: sign * sum(found[m]) / len(found[m]))
            groups.append(MethodResults(name, {method: found[method] for method in order}))
    return groups


class Importance(NamedTuple):
    """Permutation importances of the parameters for the first objective, as fractions of their sum.

    ``explained`` is the random forest's R² on out-of-bag trials; if it is zero or negative, the
    importances have no meaning.
    """

    shares: dict[str, float]
    explained: float


def importance(record: SweepRecord) -> Importance | None:
    """Return permutation importances of the parameters that vary, or ``None`` with too few trials.

    A random forest learns the first objective from the parameters; an absent parameter is a missing
    value. The importance of a parameter is the rise of the mean squared error when its columns are
    shuffled.
    """
    full = measured(record)
    names = varied(full)
    if len(full) < FEWEST_TRIALS or not names or not record.objectives:
        return None
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    target = np.array([t.metrics[record.objectives[0].metric] for t in full])
    if np.ptp(target) == 0:
        return None
    columns = {name: _encode([t.params.get(name) for t in full]) for name in names}
    table = np.concatenate(list(columns.values()), axis=1)
    forest = RandomForestRegressor(
        200, min_samples_leaf=2, oob_score=True, random_state=0, n_jobs=1
    ).fit(table, target)
    generator = np.random.default_rng(0)
    lost, start = {}, 0
    fitted = _residual(forest.predict(table), target)
    for name, part in columns.items():
        shuffled = np.tile(table, (SHUFFLES, 1))
        rows = np.concatenate([generator.permutation(len(full)) for _ in range(SHUFFLES)])
        shuffled[:, start : start + part.shape[1]] = part[rows]
        start += part.shape[1]
        worse = _residual(forest.predict(shuffled), np.tile(target, SHUFFLES))
        lost[name] = max(0.0, worse - fitted)
    total = sum(lost.values()) or 1.0
    shares = dict(sorted(((n, v / total) for n, v in lost.items()), key=lambda item: -item[1]))
    return Importance(shares, float(forest.oob_score_))


def _residual(predicted: Any, target: Any) -> float:
    """Return the mean squared error."""
    return float(((predicted - target) ** 2).mean())


def _encode(values: Sequence[Scalar]) -> Any:
    """Return columns ``[N, k]``: numbers unchanged (absent: NaN), names one-hot."""
    import numpy as np

    if all(v is None or isinstance(v, int | float) for v in values):
        return np.array([[math.nan if v is None else float(v)] for v in values])
    choices = sorted({str(v) for v in values})
    return np.array([[float(str(v) == choice) for choice in choices] for v in values])


class StageReuse(NamedTuple):
    """One stage over all trials: uses, computed and reused results, seconds spent and saved."""

    stage: str
    asked: int
    computed: int
    reused: int
    spent: float
    saved: float


def stage_reuse(trials: Sequence[TrialRecord]) -> list[StageReuse]:
    """Return cost and savings of each stage, in the order of the pipeline."""
    stages = dict.fromkeys(use.stage for trial in trials for use in trial.stages)
    rows = []
    for stage in stages:
        uses = [use for trial in trials for use in trial.stages if use.stage == stage]
        spent = sum(use.seconds for use in uses if not use.reused)
        saved = sum(use.seconds for use in uses if use.reused)
        reused = sum(use.reused for use in uses)
        rows.append(StageReuse(stage, len(uses), len(uses) - reused, reused, spent, saved))
    return rows


def bands(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the accuracy by band (many, medium, few) of the bands that exist.

    Example:
        >>> bands({"evaluate/accuracy/many": 0.9, "evaluate/accuracy/few": 0.5})
        {'many': 0.9, 'few': 0.5}
    """
    found = {band: metrics.get(f"evaluate/accuracy/{band}") for band in BANDS}
    return {band: value for band, value in found.items() if value is not None}
