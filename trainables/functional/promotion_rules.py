"""Compare a challenger's metric with the champion's, allowing for noise; shared by the gates."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from typing import Literal, NamedTuple

BANDS = ("many", "medium", "few")
Metrics = Mapping[str, float]


class Allowance(NamedTuple):
    """Largest allowed losses: in any case, and where seed noise may explain the loss."""

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

    A loss of at most ``allowed[0]`` passes. A loss of at most ``allowed[1]`` passes if it may be
    noise. With at least two common seeds (``<metric>/seed/<n>`` on both sides), it may be noise if
    the 95 % t-interval of the paired differences contains zero; without common seeds, if the
    intervals (``<metric>/low`` to ``<metric>/high``) overlap.

    Args:
        metric: Metric name.
        challenger: Metrics of the new version.
        champion: Metrics of the champion version, or ``None`` without a champion.
        allowed: Largest allowed loss in any case, and where the loss may be noise.
        better: Direction of improvement.
        unit: ``points`` (100 times the difference) or ``percent`` of the champion's value.

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
    challenger_value = challenger[metric]
    if not math.isfinite(challenger_value):
        return False, f"{metric} of the challenger is {challenger_value}"
    champion_value = math.nan if champion is None else champion.get(metric, math.nan)
    if champion is None or not math.isfinite(champion_value):
        missing = "there is no champion" if champion is None else "the champion has no value"
        return True, f"{metric} {challenger_value:.4f}; {missing} to compare with"
    sign = 1.0 if better == "higher" else -1.0
    loss = _in_unit(sign * (champion_value - challenger_value), champion_value, unit)
    limit = Allowance(*allowed)
    change = f"lost {loss:.2f} {unit}" if loss > 0 else f"gained {abs(loss):.2f} {unit}"
    reason = (
        f"{metric} {challenger_value:.4f} against {champion_value:.4f}: {change}, "
        f"allowed {limit.regression:.2f}"
    )
    # 1e-9, because a loss that equals the limit up to rounding is allowed
    if loss <= limit.regression + 1e-9:
        return True, reason
    noise = _noise(metric, challenger, champion, sign)
    if not noise:
        return False, reason
    return loss <= limit.excused + 1e-9, f"{reason}, or {limit.excused:.2f} as {noise}"


def band_no_worse(
    metric: str, challenger: Metrics, champion: Metrics | None, *, allowed: tuple[float, float]
) -> tuple[bool, str]:
    """Apply `no_worse` to a band of classes; an empty band passes.

    A band counts as empty if neither side has its metric but the challenger has the metric of
    another band.

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
    """Return the reason why seed noise may explain a loss, or an empty text."""
    challenger_seeds, champion_seeds = _seeds(metric, challenger), _seeds(metric, champion)
    common = sorted(challenger_seeds.keys() & champion_seeds.keys())
    if len(common) >= 2:
        losses = [sign * (champion_seeds[seed] - challenger_seeds[seed]) for seed in common]
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
    """Return the metric's value by seed, of seeds on which it is a number."""
    pattern = re.compile(re.escape(metric) + r"/seed/(\d+)")
    matches = ((pattern.fullmatch(name), value) for name, value in metrics.items())
    return {int(match[1]): value for match, value in matches if match and math.isfinite(value)}


def _half_width(values: list[float]) -> float:
    """Return the half-width of the 95 % t-interval of a mean."""
    from scipy.stats import t as student_t

    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(student_t.ppf(0.975, len(values) - 1)) * error
