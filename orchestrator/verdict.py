"""How a trial ended, from its last result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.trial import TrialState

from orchestrator.records import Objective

COMPLETED = "completed"  # a trainable reports 1.0 under this name with its last result


class Verdict(NamedTuple):
    """A trial's state, its objectives if it completed, and why if it did not."""

    state: TrialState
    values: list[float] | None = None
    reason: str = ""


def judge(
    result: Mapping[str, Any], error: bool, objectives: Sequence[Objective], fidelity: Objective
) -> Verdict:
    """Decide a trial's state.

    Args:
        result: Its last result; empty if there was none.
        error: It raised.
        objectives: What a complete trial must have finite values of.
        fidelity: What a stopped trial must not have a NaN of.
    """
    if error:
        return Verdict(TrialState.FAIL, reason="it raised an error, or its worker died")
    if not result:
        return Verdict(TrialState.FAIL, reason="it ended before its first report")
    values = [number_of(result.get(o.metric)) for o in objectives]
    if result.get(COMPLETED) == 1.0:
        bad = [o.metric for o, v in zip(objectives, values, strict=True) if not math.isfinite(v)]
        if not bad:
            return Verdict(TrialState.COMPLETE, values=values)
    else:
        names = dict.fromkeys([fidelity.metric, *(o.metric for o in objectives)])
        bad = [n for n in names if n in result and not math.isfinite(number_of(result[n]))]
        if not bad:
            return Verdict(TrialState.PRUNED, reason="the scheduler stopped it")
    return Verdict(TrialState.FAIL, reason=f"no finite value of {', '.join(bad)}")


def number_of(value: object) -> float:
    """Return a metric as a float; what is not a number is NaN."""
    return float(value) if isinstance(value, int | float) else math.nan
