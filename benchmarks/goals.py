"""Goals of the benchmarks, read from ``goals.yaml``: a row without an entry has no goal."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

FILE = Path(__file__).parent / "goals.yaml"


class Goal(NamedTuple):
    """A bound for a ratio: ``at_least`` for baseline / ours, else at most for ours / baseline."""

    bound: float
    at_least: bool
    withdrawn: bool = False

    def reached(self, ratio: float) -> bool:
        """Say whether a ratio meets the bound.

        Example:
            >>> Goal(2.0, at_least=True).reached(2.5), Goal(1.2, at_least=False).reached(1.3)
            (True, False)
        """
        return ratio >= self.bound if self.at_least else ratio <= self.bound


@cache
def goals() -> dict[str, Goal]:
    """Return all goals by ``benchmark | baseline``.

    Raises:
        ValueError: An entry has no bound or two, or no date.
    """
    found = {}
    for name, entry in yaml.safe_load(FILE.read_text(encoding="utf-8")).items():
        bounds = [key for key in ("at_least", "at_most") if key in entry]
        if len(bounds) != 1 or "since" not in entry:
            raise ValueError(f"goals.yaml: '{name}' needs at_least or at_most, and since")
        found[name] = Goal(float(entry[bounds[0]]), bounds == ["at_least"], "withdrawn" in entry)
    return found


def goal_of(benchmark: str, baseline: str) -> Goal | None:
    """Return the goal of a row; ``None``: it has none, or it was withdrawn."""
    found = goals().get(f"{benchmark} | {baseline}")
    return None if found is None or found.withdrawn else found


def judged(
    benchmark: str, baseline: str, ratio: float, *, correct: bool = True
) -> dict[str, object]:
    """Return the columns ``goal``, ``correct`` and ``passed`` of a row.

    A row without a goal passes if both sides gave the same result.
    """
    goal = goal_of(benchmark, baseline)
    passed = correct and (goal is None or goal.reached(ratio))
    return {"goal": goal and goal.bound, "correct": correct, "passed": passed}
