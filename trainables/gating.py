"""Is a metric no worse than the champion's? The rule that the comparing gates share."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from typing import Literal, NamedTuple

BANDS = ("many", "medium", "few")
Metrics = Mapping[str, float]


class Allowance(NamedTuple):
    """How much may be lost: for certain, and where the loss may be noise of the seeds."""

    regression: float
    excused: float


def no_worse(
    metric: str,
    challenger: Metrics,
    champion: Metrics | None,
    *,
    allowed: tuple[float, float],
    better: Literal["higher", "lower"] = "higher",
    unit: Literal["points", "percent"] = "points",
) -> tuple[bool, str]:
    """Say whether ``metric`` of the challenger is no worse than the champion's, and why.

    A loss above ``allowed[0]`` passes up to ``allowed[1]`` if it may be noise: the two were run on
    the same seeds (``<metric>/seed/<n>`` on both sides, at least two) and the 95 % t-interval of
    the paired differences holds zero; or, without common seeds, their intervals (``<metric>/low``
    to ``<metric>/high``) overlap.

    Args:
        metric: Its name.
        challenger: Metrics of the new version.
        champion: Metrics of the version that answers now, if there is one.
        allowed: What may be lost, and what may be lost where it may be noise.
        better: Which direction is an improvement.
        unit: ``points``: 100 times the difference; ``percent``: of the champion's value.

    Example:
        >>> no_worse("m", {"m": 0.5}, None, allowed=(0.5, 2.0))
        (True, 'm 0.5000; there is no champion to compare with')
        >>> no_worse("m", {}, {"m": 0.4}, allowed=(0.5, 2.0))
        (False, 'm was not measured for the challenger')
        >>> no_worse("ece", {"ece": 0.06}, {"ece": 0.05}, allowed=(0.5, 2.0), better="lower")
        (False, 'ece 0.0600 against 0.0500: lost 1.00 points, allowed 0.50')
    """
    if metric not in challenger:
        return False, f"{metric} was not measured for the challenger"
    mine = challenger[metric]
    if not math.isfinite(mine):
        return False, f"{metric} of the challenger is {mine}"
    theirs = math.nan if champion is None else champion.get(metric, math.nan)
    if champion is None or not math.isfinite(theirs):
        missing = "there is no champion" if champion is None else "the champion has no value"
        return True, f"{metric} {mine:.4f}; {missing} to compare with"
    sign = 1.0 if better == "higher" else -1.0
    loss = _in_unit(sign * (theirs - mine), theirs, unit)
    limit = Allowance(*allowed)
    change = f"lost {loss:.2f} {unit}" if loss > 0 else f"gained {abs(loss):.2f} {unit}"
    reason = f"{metric} {mine:.4f} against {theirs:.4f}: {change}, allowed {limit.regression:.2f}"
    # 1e-9: a loss that equals the limit up to rounding is allowed
    if loss <= limit.regression + 1e-9:
        return True, reason
    excuse = _noise(metric, challenger, champion, sign)
    if not excuse:
        return False, reason
    return loss <= limit.excused + 1e-9, f"{reason}, or {limit.excused:.2f} as {excuse}"


def band_no_worse(
    metric: str, challenger: Metrics, champion: Metrics | None, *, allowed: tuple[float, float]
) -> tuple[bool, str]:
    """`no_worse` for a band of classes, which may be empty: then there is nothing to lose.

    A band counts as empty if neither side has its metric while the challenger has another band's.

    Example:
        >>> measured = {"evaluate/accuracy/many": 0.9}
        >>> band_no_worse("evaluate/accuracy/few", measured, None, allowed=(0.0, 0.0))
        (True, 'evaluate/accuracy/few: no class is in this band')
    """
    stem = metric.rpartition("/")[0]
    others = [f"{stem}/{band}" for band in BANDS if f"{stem}/{band}" != metric]
    measured = any(name in challenger for name in others)
    if measured and metric not in challenger and metric not in (champion or {}):
        return True, f"{metric}: no class is in this band"
    return no_worse(metric, challenger, champion, allowed=allowed)


def _in_unit(loss: float, champion: float, unit: str) -> float:
    if unit == "points":
        return 100 * loss
    if champion == 0:
        return math.copysign(math.inf, loss) if loss else 0.0
    return 100 * loss / abs(champion)


def _noise(metric: str, challenger: Metrics, champion: Metrics, sign: float) -> str:
    """Return why a loss may be noise of the seeds, or an empty text."""
    mine, theirs = _seeds(metric, challenger), _seeds(metric, champion)
    common = sorted(mine.keys() & theirs.keys())
    if len(common) >= 2:
        losses = [sign * (theirs[seed] - mine[seed]) for seed in common]
        certain = statistics.fmean(losses) > _half_width(losses)
        return "" if certain else f"it is not certain over {len(common)} common seeds"
    ends = (
        (challenger.get(f"{metric}/high"), champion.get(f"{metric}/low"))
        if sign > 0
        else (champion.get(f"{metric}/high"), challenger.get(f"{metric}/low"))
    )
    if ends[0] is None or ends[1] is None:
        return ""
    return "the intervals overlap" if ends[0] >= ends[1] else ""


def _seeds(metric: str, metrics: Metrics) -> dict[int, float]:
    """Return seed -> value."""
    pattern = re.compile(re.escape(metric) + r"/seed/(\d+)")
    found = ((pattern.fullmatch(name), value) for name, value in metrics.items())
    return {int(match[1]): value for match, value in found if match}


def _half_width(values: list[float]) -> float:
    """Return half of the 95 % t-interval of a mean."""
    from scipy.stats import t as student_t

    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(student_t.ppf(0.975, len(values) - 1)) * error
