"""Benchmarks that measure this project and a baseline in one run: ``make bench``."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.goals import judged


def print_row(
    benchmark: str,
    baseline: str,
    times: Mapping[str, Sequence[float]],
    *,
    lower_is_better: bool = False,
    correct: bool = True,
    **more: object,
) -> bool:
    """Print one JSON row that compares our cost with the baseline's; return whether it passes.

    ``ratio`` is the baseline's median cost divided by ours. The goal is that of ``goals.yaml``; a
    row without one passes if both sides gave the same result, and no goal is called reached.

    Args:
        benchmark: Name of the row, ``file/case``.
        baseline: Key of the baseline in ``times``.
        times: Seconds (or another cost) of every repeat, by side; the key of our side is ``ours``.
        lower_is_better: Divide our median by the baseline's instead.
        correct: Whether both sides gave the same result; without it the row fails.
        more: Further columns of the row.

    Raises:
        TypeError: A goal is passed; goals stand in ``goals.yaml`` alone.
    """
    if "goal" in more:
        raise TypeError(f"{benchmark}: goals stand in goals.yaml, not in code")
    medians = {name: statistics.median(times[name]) for name in ("ours", baseline)}
    ratio = medians[baseline] / medians["ours"]
    ratio = 1 / ratio if lower_is_better else ratio
    row = {
        "benchmark": benchmark,
        "baseline": baseline,
        "medians": {name: float(f"{value:.4g}") for name, value in medians.items()},
        "spread": {name: round(max(times[name]) / min(times[name]), 2) for name in medians},
        "repeats": len(times["ours"]),
        "ratio": ratio,
        **judged(benchmark, baseline, ratio, correct=correct),
        "machine": platform.machine(),
        **more,
    }
    print(json.dumps(row), flush=True)
    return bool(row["passed"])
