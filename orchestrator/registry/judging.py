"""What the gates say of a version whose answers are known image by image.

Every gate is asked about the champion, and about the best champion so far in its metric; without a
version before, or without an image to compare on, about the base recipe that the same sweep or fit
started from. The sentence of each decision names what was compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from orchestrator.records import GateRecord
from orchestrator.registry.floors import metric_of
from orchestrator.registry.gate_settings import changed_settings
from orchestrator.registry.paired import (
    CHANCE,
    false_alarms,
    over_constant,
    paired_gains,
    rehearsal_gain,
    with_seeds,
)
from orchestrator.registry.shared_images import describe, share
from orchestrator.registry.verdicts import COMPARISON
from trainables.functional.paired_rules import Decision, Gain, Verdict
from trainables.inference.outcomes import Outcomes
from trainables.methods.gates import Gate
from trainables.methods.gates.false_alarm import FalseAlarm

Metrics = Mapping[str, float]
WORST_FIRST = ("refused", "cannot tell", "passed", "not asked")
NO_IMAGE = {
    "novelty/auroc": "no class played new in the rehearsals of both",
    "accuracy/unshared_classes": "both know the same classes",
}


class Rival(NamedTuple):
    """A version that a challenger is compared with, or its base recipe."""

    name: str  # "version 1", "the base recipe"
    outcomes: Outcomes
    metrics: Metrics = MappingProxyType({})


class Judged(NamedTuple):
    """Decisions of the gates, and by gate the gains over the champion and the best champion."""

    decisions: list[GateRecord]
    over_champion: dict[str, Gain]
    over_best: dict[str, Gain]


def judge_photos(
    mine: Outcomes,
    *,
    gates: Sequence[Gate],
    champion: Rival | None,
    base: Rival | None = None,
    best: Mapping[str, Rival] | None = None,
    metrics: tuple[Metrics, Metrics | None] = ({}, None),
    model: str = "",
) -> Judged:
    """Ask the gates about a version, image by image.

    Args:
        mine: The challenger.
        gates: The gates.
        champion: The present champion; ``None``: there is none.
        base: The base recipe, of the same images as the challenger.
        best: By the name of a gate, the best champion so far in its metric, where that is another
            version than the champion.
        metrics: Stored metrics of challenger and champion, with the latency measured now, for gates
            that compare no images.
        model: Registered name, for messages.

    Example:
        >>> from trainables.inference.outcomes import image_table
        >>> images = image_table(["a", "b"], ["train", "test"], ["lynx", "lynx"], ["1", "2"])
        >>> alone = Outcomes(images, ("lynx", "tabby"))
        >>> judged = judge_photos(alone, gates=[Gate.parse("overall")], champion=None)
        >>> [(d.name, d.verdict, d.reason) for d in judged.decisions]
        [('overall', 'not asked', 'there is no version before and no base recipe')]
    """
    opening: list[GateRecord] = []
    own: dict[str, Gain] = {}
    if champion is not None:
        opening, own = _against(mine, champion, metrics[0], model)
    rival, beside = champion, dict[str, Gain]()
    if not _by_images(own) and all(d.passed for d in opening):
        rival, beside = base, {} if base is None else _over_base(mine, base)
    over_best: dict[str, Gain] = {}
    decisions = list(opening)
    for gate in gates:
        if isinstance(gate, FalseAlarm):
            decisions.append(_record(gate, _false_alarm(gate, mine), "test/"))
        elif gate.figure == CHANCE:
            decisions.append(_by_gain(gate, _constant(mine), "there are no answers to judge"))
        elif not gate.figure:
            decisions.append(_by_metrics(gate, *metrics))
        else:
            against = champion if gate.figure in own else rival
            gain = own.get(gate.figure) or beside.get(gate.figure)
            why = _nothing(gate.figure, champion, rival)
            record = _by_gain(gate, gain, why, against)
            former = (best or {}).get(gate.name)
            if former is not None and record.passed:
                gain = _against(mine, former, metrics[0], model)[1].get(gate.figure)
                over_best |= {} if gain is None else {gate.name: gain}
                record = _beside_best(gate, record, gain, former)
            decisions.append(record)
    over_champion = {g.name: own[g.figure] for g in gates if g.figure in own}
    return Judged(decisions, over_champion, over_best)


def _against(
    mine: Outcomes, rival: Rival, metrics: Metrics, model: str
) -> tuple[list[GateRecord], dict[str, Gain]]:
    """Return the decision whether a version can be compared with another one, and the gains."""
    shared = share(mine, rival.outcomes)
    if not shared.classes:
        named = f" of '{model}'" if model else ""
        reason = (
            f"it shares no class with {rival.name}{named}, so the two cannot be compared; register "
            "it under a name of its own with --model NAME"
        )
        return [_decided(COMPARISON, Decision("refused", reason))], {}
    gains = paired_gains(shared, mine.bands())
    aurocs = rehearsal_gain(mine, rival.outcomes, shared.renamed)
    if aurocs is not None:
        gains[aurocs.figure] = aurocs
    gains = {name: with_seeds(gain, metrics, rival.metrics) for name, gain in gains.items()}
    verdict: Verdict = "passed" if _by_images(gains) else "not asked"
    return [_decided(COMPARISON, Decision(verdict, describe(shared, rival.name)), "test/")], gains


def _by_images(gains: Mapping[str, Gain]) -> bool:
    """Say whether a gain was found on images; those of rehearsals need none that are shared."""
    return any(gain.origin != "rehearsal/" for gain in gains.values())


def _over_base(mine: Outcomes, base: Rival) -> dict[str, Gain]:
    """Return the gains over the base recipe on test images, or out-of-fold where there are none."""
    gains = paired_gains(share(mine, base.outcomes), mine.bands())
    gains = gains or paired_gains(share(mine, base.outcomes, "train"), mine.bands())
    aurocs = rehearsal_gain(mine, base.outcomes, {})
    return gains | ({} if aurocs is None else {aurocs.figure: aurocs})


def _constant(mine: Outcomes) -> Gain | None:
    return over_constant(mine) or over_constant(mine, "train")


def _false_alarm(gate: FalseAlarm, mine: Outcomes) -> Decision:
    if mine.level is None:
        return Decision("not asked", "the threshold was not set for a level of false alarm")
    rates = false_alarms(mine)
    if not rates:
        return Decision("not asked", "there is no test image of a known class")
    return gate.judge_rates(list(rates.values()), mine.level)


def _nothing(figure: str, champion: Rival | None, rival: Rival | None) -> str:
    """Return why there is nothing to compare in a figure."""
    if rival is None:
        before = "no version before" if champion is None else "no image to compare on"
        return f"there is {before} and no base recipe"
    none = f"no shared image of {rival.name} shows {figure}"
    return NO_IMAGE.get(figure, none)


def _by_gain(gate: Gate, gain: Gain | None, why: str, rival: Rival | None = None) -> GateRecord:
    if gain is None:
        return _record(gate, Decision("not asked", why))
    decision = gate.judge(gain)
    said = f"{rival.name}: " if rival is not None else ""
    return _record(gate, decision._replace(reason=said + decision.reason), gain.origin)


def _beside_best(gate: Gate, record: GateRecord, gain: Gain | None, best: Rival) -> GateRecord:
    """Return the worse of two decisions: beside the champion, and beside the best one so far."""
    who = f"best champion so far ({best.name})"
    if gain is None:
        return record.model_copy(update={"reason": f"{record.reason}; {who}: no shared image"})
    decision = gate.judge(gain)
    reason = f"{record.reason}; {who}: {decision.reason}"
    if WORST_FIRST.index(decision.verdict) >= WORST_FIRST.index(record.verdict):
        return record.model_copy(update={"reason": reason})
    return _record(gate, decision._replace(reason=reason), gain.origin)


def _by_metrics(gate: Gate, challenger: Metrics, champion: Metrics | None) -> GateRecord:
    """Ask a gate that compares no images; about what was not measured it is not asked."""
    metric = metric_of(gate)
    if metric and metric not in challenger:
        return _record(gate, Decision("not asked", f"{metric} was not measured"))
    return by_metrics(gate, challenger, champion)


def by_metrics(gate: Gate, challenger: Metrics, champion: Metrics | None) -> GateRecord:
    """Ask a gate about stored metrics; one that compared nothing was not asked.

    Example:
        >>> by_metrics(Gate.parse("overall"), {"test/accuracy/open": 0.5}, None).verdict
        'not asked'
    """
    passed, reason = gate(challenger=challenger, champion=champion)
    metric = metric_of(gate)
    compared = not metric or math.isfinite((champion or {}).get(metric, math.nan))
    verdict: Verdict = "passed" if passed else "refused"
    if passed and (not compared or reason.startswith("not asked: ")):
        verdict, reason = "not asked", reason.removeprefix("not asked: ")
    origin = "test/" if metric.startswith("test/") else ""
    return _record(gate, Decision(verdict, reason), origin)


def _record(gate: Gate, decision: Decision, origin: str = "") -> GateRecord:
    return _decided(gate.name, decision, origin, changed_settings(gate))


def _decided(
    name: str, decision: Decision, origin: str = "", settings: Mapping[str, object] = {}
) -> GateRecord:
    return GateRecord.model_validate(
        {
            "name": name,
            "passed": decision.verdict != "refused",
            "reason": decision.reason,
            "settings": settings,
            "verdict": decision.verdict,
            "needs": decision.needs,
            "origin": origin,
        }
    )
