"""Thresholds at a level of false alarm and the rates below them, by hand."""

from __future__ import annotations

import pytest
import torch

from trainables.rehearsal.noticing import (
    Answers,
    image_weights,
    noticed_rate,
    taken_for,
    threshold_at,
)


@pytest.mark.parametrize(
    ("level", "false_alarms"), [(0.001, 0), (0.01, 1), (0.05, 5), (0.055, 5), (0.5, 50)]
)
def test_the_threshold_rejects_at_most_the_level(level: float, false_alarms: int) -> None:
    confidence = torch.randperm(100, generator=torch.Generator().manual_seed(0)).float()
    threshold = threshold_at(confidence, torch.full((100,), 0.01).double(), level)
    assert threshold == float(false_alarms)
    assert int((confidence < threshold).sum()) == false_alarms


def test_images_of_equal_confidence_stay_together() -> None:
    confidence = torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0])
    weights = torch.full((5,), 0.2, dtype=torch.float64)
    assert threshold_at(confidence, weights, 0.4) == 1.0  # below 2.0 lies .8
    assert threshold_at(confidence, weights, 0.8) == 2.0
    assert noticed_rate(confidence, 1.0) == pytest.approx(0.2)


def test_the_quantile_weighs_classes_by_the_expected_prior() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    # the rare class looks strange: one of ten of it lies below all others
    confidence = torch.cat([torch.arange(90) + 100.0, torch.arange(10.0) * 50])
    natural = image_weights(labels, None)
    assert natural.tolist() == pytest.approx([0.01] * 100)
    assert threshold_at(confidence, natural, 0.03) == 100.0  # below lie 0 and 50, then 2 at 100
    balanced = image_weights(labels, torch.tensor([1.0, 1.0]))
    assert balanced[0] == pytest.approx(0.5 / 90)
    assert balanced[-1] == pytest.approx(0.05)
    assert threshold_at(confidence, balanced, 0.1) == 100.0  # below lie 0 and 50, each .05


def test_a_class_without_images_has_no_share() -> None:
    weights = image_weights(torch.tensor([0, 2]), torch.tensor([0.2, 0.6, 0.2]))
    assert weights.tolist() == pytest.approx([0.5, 0.5])


def test_what_unnoticed_images_are_taken_for_adds_up() -> None:
    confidence = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    new = Answers(confidence, torch.tensor([2, 2, 1, 0, 0]))
    found = taken_for(new, 1.0, ["c", "b", "a"])
    assert found == [("c", 0.4), ("a", 0.2), ("b", 0.2)]
    assert sum(rate for _, rate in found) + noticed_rate(confidence, 1.0) == pytest.approx(1)
