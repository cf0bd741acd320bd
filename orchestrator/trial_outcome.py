"""Outcome of a trial (COMPLETE, PRUNED or FAIL), decided from its last result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.trial import TrialState

from orchestrator.records import Objective

COMPLETED = "completed"  # key of 1.0 in the last result of a trial that ran to its end


class TrialOutcome(NamedTuple):
    """A trial's state, the objective values of a completed trial, the reason of another state."""

    state: TrialState
    values: list[float] | None = None
    reason: str = ""


def judge(
    result: Mapping[str, Any], error: bool, objectives: Sequence[Objective], fidelity: Objective
) -> TrialOutcome:
    """Decide a trial's state.

    Args:
        result: The trial's last result; empty if the trial reported none.
        error: The trial raised an error or lost its worker.
        objectives: Metrics of which a completed trial needs finite values.
        fidelity: Metric that must not be NaN if the trial was stopped early.
    """
    if error:
        return TrialOutcome(TrialState.FAIL, reason="the trial raised an error, or its worker died")
    if not result:
        return TrialOutcome(TrialState.FAIL, reason="the trial ended before its first report")
    values = [number_of(result.get(o.metric)) for o in objectives]
    if result.get(COMPLETED) == 1.0:
        bad = [o.metric for o, v in zip(objectives, values, strict=True) if not math.isfinite(v)]
        if not bad:
            return TrialOutcome(TrialState.COMPLETE, values=values)
    else:
        names = dict.fromkeys([fidelity.metric, *(o.metric for o in objectives)])
        bad = [n for n in names if n in result and not math.isfinite(number_of(result[n]))]
        if not bad:
            return TrialOutcome(TrialState.PRUNED, reason="the scheduler stopped the trial")
    return TrialOutcome(TrialState.FAIL, reason=f"no finite value of {', '.join(bad)}")


def number_of(value: object) -> float:
    """Return a metric as a float; NaN if the value is not a number."""
    return float(value) if isinstance(value, int | float) else math.nan


def collect(result: Mapping[str, Any], name: str) -> Any:
    """Return a value that Ray may have flattened (``name/key``).

    Example:
        >>> collect({"stage_keys/classify": "k1"}, "stage_keys")
        {'classify': 'k1'}
    """
    if name in result:
        return result[name]
    return {k.removeprefix(f"{name}/"): v for k, v in result.items() if k.startswith(f"{name}/")}
