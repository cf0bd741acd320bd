"""Speed, side by side with peers in one run: ``make bench``."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence


def print_row(
    benchmark: str,
    rival: str,
    times: Mapping[str, Sequence[float]],
    *,
    goal: float,
    most: bool = False,
    correct: bool = True,
    **more: object,
) -> bool:
    """Print a JSON row about two sides' repeats and return whether the goal is reached.

    The ratio is the rival's median over ours: how many times less we need.

    Args:
        benchmark: ``file/case``.
        rival: Name of the other side in ``times``.
        times: Seconds (or any cost) per repeat, by side; ours is called ``ours``.
        goal: Smallest ratio that is good enough.
        most: The goal is the largest ratio instead, of our median over the rival's.
        correct: Both sides gave the same result.
        more: Further columns.
    """
    medians = {name: statistics.median(times[name]) for name in ("ours", rival)}
    ratio = medians[rival] / medians["ours"]
    ratio = 1 / ratio if most else ratio
    passed = correct and (ratio <= goal if most else ratio >= goal)
    row = {
        "benchmark": benchmark,
        "rival": rival,
        "medians": {name: float(f"{value:.4g}") for name, value in medians.items()},
        "spread": {name: round(max(times[name]) / min(times[name]), 2) for name in medians},
        "repeats": len(times["ours"]),
        "ratio": ratio,
        "goal": goal,
        "correct": correct,
        "passed": passed,
        "machine": platform.machine(),
        **more,
    }
    print(json.dumps(row), flush=True)
    return passed
