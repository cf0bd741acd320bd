"""Verdicts of gates in one line."""

from __future__ import annotations

from orchestrator.records import GateRecord, PromotionRecord
from orchestrator.registry.verdicts import summary


def test_a_promotion_counts_its_gates() -> None:
    unsure = {"passed": True, "reason": "", "verdict": "cannot tell"}
    gates = [
        GateRecord(name="comparison", passed=True, reason="no gate"),
        GateRecord(name="few", needs=1200, **unsure),
        GateRecord(name="novelty", needs=40, origin="rehearsal/", **unsure),
        GateRecord(name="overall", passed=False, reason=""),
        GateRecord(name="latency", passed=True, reason="", verdict="not asked"),
    ]
    record = PromotionRecord(model="photos", version="2", promoted=False, gates=gates)
    assert summary(record) == (
        "1 gate refused (overall), 2 cannot tell (few: needs about 1,200 test images, "
        "novelty: needs about 40 rehearsed classes), 1 not asked"
    )
    assert summary(record.model_copy(update={"gates": gates[:1]})) == ""
