"""What the gates said, counted in one line."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.records import GateRecord, PromotionRecord

COMPARISON = "comparison"  # the decision whether two versions can be compared; no gate
ORDER = ("passed", "refused", "cannot tell", "not asked")


def summary(record: PromotionRecord) -> str:
    """Return in one line how many gates said what; empty without a gate.

    Example:
        >>> few = {"name": "few", "passed": True, "reason": "", "needs": 60}
        >>> gates = [GateRecord(name="overall", passed=True, reason="gained 2 points")]
        >>> gates += [GateRecord.model_validate({**few, "verdict": "cannot tell"})]
        >>> summary(PromotionRecord(model="photos", version="2", promoted=True, gates=gates))
        '1 gate passed, 1 cannot tell (few: needs about 60 test images)'
    """
    gates = [gate for gate in record.gates if gate.name != COMPARISON]
    told = {verdict: [g for g in gates if g.verdict == verdict] for verdict in ORDER}
    parts: list[str] = []
    for verdict, found in told.items():
        if found:
            noun = "" if parts else f" gate{'s' * (len(found) > 1)}"
            parts.append(f"{len(found)}{noun} {verdict}{_named(verdict, found)}")
    return ", ".join(parts)


def _named(verdict: str, gates: Sequence[GateRecord]) -> str:
    """Return in brackets which gates refused, and what those need that cannot tell."""
    if verdict == "refused":
        return f" ({', '.join(gate.name for gate in gates)})"
    if verdict != "cannot tell":
        return ""
    return f" ({', '.join(f'{gate.name}{_need(gate)}' for gate in gates)})"


def _need(gate: GateRecord) -> str:
    unit = "rehearsed classes" if gate.origin == "rehearsal/" else "test images"
    return f": needs about {gate.needs:,} {unit}" if gate.needs else ""
