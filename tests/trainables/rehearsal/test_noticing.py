"""The service's threshold in a turn, and the rates below it, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainables.methods.thresholds.false_alarm import FalseAlarm
from trainables.rehearsal.noticing import Answers, Verdict, share_of, taken_for, verdict_at

COUNTS = torch.tensor([99, 19, 3])


def known() -> Answers:
    """Return sorted confidences of three classes: 1..99, 101..119, and 201, 202, 203."""
    values = [*range(1, 100), *range(101, 120), 201, 202, 203]
    return Answers(torch.tensor(values).float(), torch.arange(3).repeat_interleave(COUNTS))


def at(level: float, method: FalseAlarm | None = None, weights: torch.Tensor | None = None):
    return verdict_at(method or FalseAlarm(), level, known(), class_counts=COUNTS, weights=weights)


def test_classes_of_enough_images_have_their_own_quantile() -> None:
    # .05 of 100 is the fifth of the first class, .05 of 20 the first of the second; 3 images of
    # the third tell nothing, and nobody else is left, so that it has that of all: .05 of 122
    assert at(0.05).by_class.tolist() == pytest.approx([5.0, 101.0, 6.1])
    assert at(0.05).threshold == pytest.approx(6.1)
    # .01 of 100 is the first; of the others no part is large enough
    assert at(0.01).by_class.tolist() == pytest.approx([1.0, 1.22, 1.22])


def test_a_level_of_the_method_itself_does_not_count() -> None:
    assert at(0.05, FalseAlarm(level=0.5)).by_class.equal(at(0.05).by_class)
    assert at(0.05, FalseAlarm(offsets="none")).by_class is None


def test_the_quantile_weighs_images() -> None:
    # the first class does not come at all: .05 of 23
    weights = torch.tensor([0.0, 1.0, 1.0])[known().predicted]
    method = FalseAlarm(offsets="none")
    assert at(0.05, method, weights).threshold == pytest.approx(101.15)


def test_too_few_images_call_nothing_unknown() -> None:
    few = at(0.005)
    assert few.threshold == -math.inf
    assert few.nothing_is_unknown
    assert not few.unknown(known()).any()
    assert at(0.005, FalseAlarm(offsets="none")).nothing_is_unknown
    assert not at(0.05).nothing_is_unknown
    assert not Verdict(-math.inf, torch.tensor([-math.inf, 0.0])).nothing_is_unknown


def test_the_level_is_that_of_known_images_in_each_part() -> None:
    alarms = at(0.05).unknown(known())
    assert [int(alarms[known().predicted == c].sum()) for c in range(3)] == [4, 0, 0]


def test_what_unnoticed_images_are_taken_for_adds_up() -> None:
    noticed = torch.tensor([True, False, False, False, False])
    found = taken_for(torch.tensor([2, 2, 1, 0, 0]), noticed, ["c", "b", "a"])
    assert found == [("c", 0.4), ("a", 0.2), ("b", 0.2)]
    assert sum(rate for _, rate in found) + share_of(noticed) == pytest.approx(1)
