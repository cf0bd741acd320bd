"""Self-trainers: a slow oracle, and one contract for all that stand on the shelf."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.vectors import variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.self_trainers import SelfTrainer
from trainables.methods.self_trainers.hard_labels import HardLabels

everything = pytest.mark.parametrize("method", list(variants(SelfTrainer)))


def logits(size: int = 60, classes: int = 4, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(size)
    return (3 * torch.randn(size, classes, generator=draw, dtype=torch.float64)).to(dtype)


# --- contract -----------------------------------------------------------------------------------


@everything
@pytest.mark.parametrize("size", [0, 1, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_image_gets_a_valid_label_and_a_weight(
    method: SelfTrainer, size: int, dtype: torch.dtype
) -> None:
    labels, weights = method(logits=logits(size, dtype=dtype))
    assert labels.shape == weights.shape == (size,)
    assert labels.dtype == torch.int64
    assert weights.dtype == torch.float32
    assert ((labels >= 0) & (labels < 4)).all()
    assert (weights >= 0).all()


@everything
def test_order_and_company_of_images_do_not_matter(method: SelfTrainer) -> None:
    given = logits()
    labels, weights = method(logits=given)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:20]
    for whole, part in zip((labels, weights), method(logits=given[order]), strict=True):
        assert torch.equal(whole[order], part)


@everything
def test_a_constant_added_to_all_logits_changes_nothing(method: SelfTrainer) -> None:
    plain, moved = (method(logits=logits() + shift) for shift in (0.0, 50.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, moved, strict=True))


@everything
def test_what_reads_no_unlabelled_images_keeps_none(method: SelfTrainer) -> None:
    _, weights = method(logits=logits())
    assert bool(weights.any()) is ("unlabelled" in method.extra_views)


# --- hard labels --------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.25, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_hard_labels_follow_the_formula(weight: float, threshold: float) -> None:
    given = logits()
    labels, weights = HardLabels(weight=weight, threshold=threshold)(logits=given)
    for row, label, found in zip(given.tolist(), labels.tolist(), weights.tolist(), strict=True):
        total = sum(math.exp(z) for z in row)
        confidences = max(math.exp(z) / total for z in row)
        assert row[label] == max(row)
        assert found == (weight if confidences >= threshold else 0.0)
    kept = int((weights > 0).sum())
    assert kept == 60 if threshold == 0 else kept < 60


def test_a_probability_at_the_threshold_is_enough() -> None:
    even = torch.zeros(1, 2)
    assert HardLabels(threshold=0.5)(logits=even)[1].tolist() == [1.0]
    assert HardLabels(threshold=0.5001)(logits=even)[1].tolist() == [0.0]


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"threshold": 1.1}, {"threshold": -0.1}])
def test_settings_out_of_bounds_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="hard_labels") as caught:
        SelfTrainer.parse({"hard_labels": settings})
    assert "\n" not in str(caught.value)
