"""Gates on registered versions: image by image where both have tables, else by their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.records import GateRecord
from orchestrator.registry.comparison import (
    LATENCY,
    Asked,
    Comparison,
    comparable_metrics,
    with_latency,
)
from orchestrator.registry.floors import Floor, best_champions, find_floors, floor_of, metric_of
from orchestrator.registry.gate_settings import changed_settings
from orchestrator.registry.judging import Judged, Rival, by_metrics, judge_photos
from orchestrator.registry.verdicts import COMPARISON
from orchestrator.registry.versions import BASE_FILE
from trainables.functional.paired_rules import Gain
from trainables.inference.outcomes import Outcomes
from trainables.methods.gates import Gate


class JudgedVersion(NamedTuple):
    """Decisions of the gates, the metrics that they compared, and the floors.

    ``unshared`` are the metrics in which no image of the champion could be compared.
    """

    decisions: list[GateRecord]
    comparison: Comparison
    floors: Mapping[str, Floor]
    unshared: frozenset[str] = frozenset()


def judge_version(asked: Asked) -> JudgedVersion:
    """Ask the gates about a version, beside the champion and the best champion so far.

    Versions that have tables of outcomes (`trainables.inference.outcomes`) are compared on the
    images that are test images of both, see `orchestrator.registry.judging`. Others are compared by
    their metrics, see `comparable_metrics`.
    """
    mine = asked.registry.outcomes(asked.model, asked.version)
    theirs = None if asked.champion is None else _rival(asked, asked.champion)
    if mine is not None and (asked.champion is None or theirs is not None):
        return _by_image(asked, mine, theirs)
    comparison = comparable_metrics(**asked._asdict())
    floors = {} if comparison.problem else find_floors(asked)
    decisions = [
        *_comparability(comparison),
        *(_ask(gate, comparison, floors) for gate in asked.gates),
    ]
    return JudgedVersion(decisions, comparison, floors)


def _rival(asked: Asked, version: str) -> Rival | None:
    """Return a version to compare with; ``None`` if it has no table."""
    outcomes = asked.registry.outcomes(asked.model, version)
    if outcomes is None:
        return None
    metrics = asked.registry.metrics(asked.model, version)
    return Rival(f"version {version}", outcomes, metrics)


def _by_image(asked: Asked, mine: Outcomes, theirs: Rival | None) -> JudgedVersion:
    """Judge a version by its table of outcomes."""
    timed, gates = with_latency(asked), asked.gates
    base = asked.registry.outcomes(asked.model, asked.version, BASE_FILE)
    best: dict[str, str] = {}
    if asked.champion is not None:
        best = best_champions(asked.registry, asked.model, asked.champion)
    rivals = {former: _rival(asked, former) for former in set(best.values()) - {asked.version}}
    held = {gate.name: rivals.get(best.get(metric_of(gate), "")) for gate in gates}
    judged = judge_photos(
        mine,
        gates=gates,
        champion=theirs,
        base=None if base is None else Rival("the base recipe", base),
        best={name: rival for name, rival in held.items() if rival is not None},
        metrics=(timed.challenger, timed.champion),
        model=asked.model,
    )
    floors = {
        metric_of(gate): _floor(best[metric_of(gate)], gate, judged.over_best[gate.name])
        for gate in gates
        if gate.name in judged.over_best
    }
    untold = {
        gate.name: best[metric_of(gate)]
        for gate in gates
        if gate.figure and best.get(metric_of(gate)) in rivals and held[gate.name] is None
    }
    decisions = [_without_table(d, untold.get(d.name)) for d in judged.decisions]
    if best.get(LATENCY) in rivals:
        former = best[LATENCY]
        alike = with_latency(asked._replace(champion=former))
        floors[LATENCY] = floor_of(former, LATENCY, alike)
        by_name = {gate.name: gate for gate in gates if metric_of(gate) == LATENCY}
        decisions = [
            _beside_floor(d, by_name[d.name], floors[LATENCY]) if d.name in by_name else d
            for d in decisions
        ]
    compared = _as_metrics(timed, gates, judged.over_champion)
    unshared = _unshared(judged, gates) if theirs is not None else frozenset[str]()
    return JudgedVersion(decisions, compared, floors, unshared)


def _unshared(judged: Judged, gates: Sequence[Gate]) -> frozenset[str]:
    """Return the metrics without a gain over the champion, if it shared classes but no image."""
    verdicts = {d.name: d.verdict for d in judged.decisions}
    if verdicts[COMPARISON] != "not asked":
        return frozenset()
    held = {metric_of(g) for g in gates if g.figure and g.name not in judged.over_champion}
    return frozenset(held - {""})


def _without_table(record: GateRecord, former: str | None) -> GateRecord:
    """Return a decision that says if the best champion so far could not be compared with."""
    if former is None or not record.passed:
        return record
    said = f"best champion so far: not asked: version {former} has no outcome table"
    return record.model_copy(update={"reason": f"{record.reason}; {said}"})


def _as_metrics(timed: Comparison, gates: Sequence[Gate], gains: Mapping[str, Gain]) -> Comparison:
    """Return metrics in which each gate's one has the values of the images that were compared."""
    mine = {name: v for name, v in timed.challenger.items() if name.startswith(LATENCY)}
    theirs = {name: v for name, v in (timed.champion or {}).items() if name.startswith(LATENCY)}
    for gate in gates:
        if gate.name in gains:
            values = _values(gate, gains[gate.name])
            mine[metric_of(gate)], theirs[metric_of(gate)] = values
    return Comparison(mine, None if timed.champion is None else theirs)


def _values(gate: Gate, gain: Gain) -> tuple[float, float]:
    """Return a gain as two values of the gate's metric, of which the gate wants the better one."""
    sign = -1.0 if getattr(gate, "better", "higher") == "lower" else 1.0
    return gain.theirs + sign * gain.value, gain.theirs


def _floor(version: str, gate: Gate, gain: Gain) -> Floor:
    mine, theirs = _values(gate, gain)
    return Floor(version, {metric_of(gate): mine}, {metric_of(gate): theirs})


def _comparability(comparison: Comparison) -> list[GateRecord]:
    """Return the decision on the comparison itself, if it has a problem or a note."""
    reason = comparison.problem or comparison.note
    passed = not comparison.problem
    return [GateRecord(name=COMPARISON, passed=passed, reason=reason)] if reason else []


def _ask(gate: Gate, comparison: Comparison, floors: Mapping[str, Floor]) -> GateRecord:
    """Return a gate's decision; without comparable metrics a gate that compares one refuses.

    A challenger that passes beside the champion must pass beside the best champion so far too.
    """
    metric = metric_of(gate)
    if comparison.problem and metric:
        mine = comparison.challenger.get(metric)
        shown = "" if mine is None else f" {mine:.4f}"
        return GateRecord(
            name=gate.name, passed=False, reason=f"{metric}{shown} cannot be compared"
        )
    record = by_metrics(gate, comparison.challenger, comparison.champion)
    return _beside_floor(record, gate, floors[metric]) if metric in floors else record


def _beside_floor(record: GateRecord, gate: Gate, floor: Floor) -> GateRecord:
    """Return a decision, refused if the best champion so far is better than allowed."""
    if not record.passed:
        return record
    passed, against_best = floor.judge(gate)
    compared = by_metrics(gate, floor.challenger, floor.best).verdict != "not asked"
    return GateRecord(
        name=gate.name,
        passed=passed,
        reason=f"{record.reason}; {against_best}",
        settings=changed_settings(gate),
        verdict=("passed" if compared else record.verdict) if passed else "refused",
        origin=record.origin,
    )
