"""What a loss says of its phases is true: within one, its value does not depend on progress."""

import pytest
import torch
from torch.nn.functional import normalize

from trainables.methods.losses import Loss

GRID = [step / 20 for step in range(21)]
MOVING = sorted(name for name in Loss.shelf if "progress" in Loss.lookup(name).takes())
CASES = [
    *MOVING,
    {"ldam": {"reweight_from": None}},
    {"deferred": {"start": 0.3, "base": {"ldam": {"reweight_from": 0.6}}}},
    {"flooding": {"base": {"deferred": {"start": 0.4}}}},
    {"influence_balanced": {"start": None}},
    {"joint": {"base": "ldam"}},
    {"joint": {"schedule": "cumulative"}},
]


def given() -> dict[str, object]:
    draws = torch.Generator().manual_seed(0)
    experts = torch.randn(6, 3, 4, generator=draws)
    projections = normalize(torch.randn(6, 5, generator=draws), dim=1)
    return {
        "logits": experts.mean(1),
        "expert_logits": experts,
        "features": torch.randn(6, 5, generator=draws),
        "labels": torch.tensor([0, 0, 1, 2, 3, 1]),
        "class_counts": torch.tensor([90, 30, 9, 3]),
        "projections": projections,
        "prototypes": projections[:4],
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_within_a_phase_progress_changes_nothing(case: object) -> None:
    loss, available = Loss.parse(case), given()
    values: dict[object, float] = {}
    for progress in GRID:
        phase = loss.phase(progress)
        value = float(loss.supplied({**available, "progress": progress}))
        if phase is not None:
            assert values.setdefault(phase, value) == value
    assert len(values) <= 3


@pytest.mark.parametrize("case", ["ldam", "deferred", "influence_balanced", "ride"])
def test_a_value_that_changes_once_has_two_phases(case: str) -> None:
    loss = Loss.parse(case)
    assert len({loss.phase(progress) for progress in GRID}) == 2


def test_a_loss_that_moves_promises_nothing() -> None:
    assert Loss.parse({"joint": {"schedule": "cumulative"}}).phase(0.5) is None


def test_a_loss_without_progress_has_one_phase() -> None:
    assert {Loss.parse("cross_entropy").phase(progress) for progress in GRID} == {()}
