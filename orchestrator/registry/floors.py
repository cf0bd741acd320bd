"""Floors of a model: the best champion so far in each metric, below which no promotion leads.

Each gate allows a small loss against the champion, and a larger one as noise, so that a chain of
promotions could lose much. Therefore a challenger is compared with the best champion so far as
well, where that is another version: with the gate's plain limit, because a loss that was excused as
noise once is not excused again. Only latency, which is measured anew each time, keeps its excuse.

The best champions are kept in a tag of the version that is champion, as they were when it became
champion. So a rollback withdraws the floors that the withdrawn version had raised, and a promotion
by force starts the floors anew in the metrics whose gates refused it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.registry.comparison import LATENCY, Asked, comparable_metrics
from trainables.methods.gates import Gate

if TYPE_CHECKING:
    from orchestrator.registry.comparison import Comparison
    from orchestrator.registry.versions import Registry

BEST_TAG = "orchestrator.best"  # of a version: metric to version, where that is another one


class Floor(NamedTuple):
    """Values of one metric that were measured alike: the challenger's and a former champion's.

    ``version`` is the best champion so far, ``best`` its value (of the latency also the interval);
    ``problem`` says why the two cannot be compared.
    """

    version: str
    challenger: Mapping[str, float]
    best: Mapping[str, float]
    problem: str = ""

    def judge(self, gate: Gate) -> tuple[bool, str]:
        """Return a gate's decision against the best champion so far."""
        who = f"best champion so far (version {self.version})"
        if self.problem:
            return False, f"{who}: {self.problem}"
        passed, reason = gate(challenger=self.challenger, champion=self.best)
        return passed, f"{who}: {reason}"


def find_floors(asked: Asked) -> dict[str, Floor]:
    """Return the floor of each metric in which another version than the champion is the best.

    Without a champion there are none.
    """
    if asked.champion is None:
        return {}
    best = best_champions(asked.registry, asked.model, asked.champion)
    floors: dict[str, Floor] = {}
    for former in sorted(set(best.values()) - {asked.version}):
        held = [gate for gate in asked.gates if best.get(metric_of(gate)) == former]
        if not held:
            continue
        beside = asked._replace(champion=former, gates=held)
        alike = comparable_metrics(**beside._asdict())
        for metric in map(metric_of, held):
            floors[metric] = floor_of(former, metric, alike)
    return floors


def floor_of(version: str, metric: str, alike: Comparison) -> Floor:
    """Return the floor that a version sets in a metric, without what would excuse noise."""
    names = [metric, *([f"{metric}/low", f"{metric}/high"] if metric == LATENCY else [])]
    theirs = alike.champion or {}
    best = {name: theirs[name] for name in names if name in theirs}
    return Floor(version, alike.challenger, best, alike.problem)


def best_champions(registry: Registry, model: str, champion: str) -> dict[str, str]:
    """Return, per metric, the best champion so far where that is not the champion itself.

    Versions that were deleted from the registry do not count.
    """
    stored = registry.version_tags(model, champion).get(BEST_TAG, "{}")
    alive = set(registry.versions(model)) - {champion}
    return {metric: str(best) for metric, best in json.loads(stored).items() if best in alive}


def keep_best(
    registry: Registry,
    model: str,
    version: str,
    *,
    champion: str | None,
    comparison: Comparison,
    floors: Mapping[str, Floor],
    gates: Sequence[Gate],
    refusing: Sequence[str],
    unshared: Collection[str] = (),
) -> None:
    """Write to a version that becomes champion in which metrics another one stays the best.

    The best champion so far stays so where the version could not be compared with it, or has no
    number in its metric.

    Args:
        registry: Registry of the versions.
        model: Registered name.
        version: The version that becomes champion.
        champion: The champion before it.
        comparison: Metrics of both.
        floors: Floors that the version was compared with.
        gates: Gates that compared.
        refusing: Names of gates that refused a version promoted by force.
        unshared: Metrics in which no image could be compared with the champion: it stays the best.
    """
    former = {} if champion is None else best_champions(registry, model, champion)
    best: dict[str, str] = {}
    for gate in gates:
        metric = metric_of(gate)
        if not metric or champion is None or gate.name in refusing:
            continue
        if metric not in floors and former.get(metric, version) != version:
            best[metric] = former[metric]
            continue
        if metric not in floors and metric in unshared:
            best[metric] = champion
            continue
        floor = floors.get(metric) or floor_of(champion, metric, comparison)
        mine, theirs = (side.get(metric, math.nan) for side in (floor.challenger, floor.best))
        sign = -1.0 if getattr(gate, "better", "higher") == "lower" else 1.0
        if math.isfinite(theirs) and not sign * mine >= sign * theirs:
            best[metric] = floor.version
    registry.set_version_tags(model, version, {BEST_TAG: json.dumps(best, sort_keys=True)})


def metric_of(gate: Gate) -> str:
    """Return the metric that a gate compares with the champion's; empty if it compares none."""
    return str(getattr(gate, "metric", ""))
