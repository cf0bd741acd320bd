"""Figures of a model by hand: test images, classes without any, bands, false alarm."""

import numpy as np
import pytest

from orchestrator.fitting.figures.measuring import Judged, Known, figures, judged
from trainables.inference.model import Predictions

NAMES = ["ant", "bee", "cat"]
KNOWN = Known(NAMES, [150, 30, 5], 100, 20, [0.8, 0.15, 0.05])
TEST = Judged(
    np.array([0, 0, 0, 0, 1, 1]),
    np.arange(6),
    np.array([True, True, True, False, True, False]),
    np.array([False, False, False, True, False, False]),
)
INSIDE = Judged(
    np.array([0, 0, 1, 1, 2, 2]),
    np.arange(6),
    np.array([True, True, False, False, True, True]),
    np.array([True, True, True, True, False, True]),
)


def test_bounds_belong_to_the_medium_band() -> None:
    known = Known(list("abcd"), [19, 20, 100, 101], 100, 20, [0.25] * 4)
    assert [known.band(name) for name in "abcd"] == ["few", "medium", "medium", "many"]


def test_figures_by_hand() -> None:
    found = figures(TEST, INSIDE, KNOWN)
    assert found.balanced.mean == pytest.approx((0.75 + 0.5 + 1.0) / 3)
    assert found.natural.mean == pytest.approx(0.8 * 0.75 + 0.15 * 0.5 + 0.05 * 1.0)
    assert found.out_of_fold is not None
    assert found.out_of_fold.mean == pytest.approx((1 + 0 + 1) / 3)
    bands = {band: rate.mean for band, rate in found.bands.items()}
    assert bands == {"many": 0.75, "medium": 0.5, "few": 1.0}
    assert found.false_alarm is not None
    assert found.false_alarm.mean == pytest.approx(0.8 * 0.25 + 0.05 * 0.5)
    assert found.false_alarm_bands["few"].mean == 0.5
    assert (found.images, found.origin, found.out_of_fold_classes) == (6, "test", ["cat"])
    assert {name: rate.mean for name, rate in found.by_class.items()} == {
        "ant": 0.75, "bee": 0.5, "cat": 1.0
    }  # fmt: skip


def test_a_class_of_one_shot_is_not_counted_as_always_wrong() -> None:
    # both images of cat are one group, so the fit that answers them has never seen a cat
    inside = INSIDE._replace(
        groups=np.array([0, 1, 2, 3, 4, 4]),
        right=np.array([True, True, False, False, False, False]),
    )
    found = figures(TEST, inside, KNOWN)
    assert found.balanced.mean == pytest.approx((0.75 + 0.5) / 2)
    assert sorted(found.by_class) == ["ant", "bee"]
    assert found.out_of_fold_classes == []


def test_without_a_test_all_is_out_of_fold() -> None:
    nothing = Judged(np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool))
    found = figures(nothing, INSIDE, KNOWN)
    assert (found.origin, found.images, found.false_alarm) == ("out of fold", 0, None)
    assert found.balanced.mean == pytest.approx((1 + 0 + 1) / 3)


def test_own_validation_images_beside_training_images_out_of_fold() -> None:
    # ant .5 (of 40) against 1, bee 1 against 0: the mean of the differences; cat is in one alone
    labels = np.array([0] * 40 + [1] * 40)
    right = np.array([True, False] * 20 + [True] * 40)
    found = figures(TEST, INSIDE, KNOWN, Judged(labels, np.arange(80), right))
    assert found.validation is not None
    assert found.validation.mean == pytest.approx(0.75)
    assert found.validation_gap is not None
    assert found.validation_gap.mean == pytest.approx((0.5 - 1 + 1 - 0) / 2)
    assert found.validation_gap.low < 0 < found.validation_gap.high  # of one image each
    assert figures(TEST, INSIDE, KNOWN).validation_gap is None


def test_what_is_right_and_what_is_called_unknown() -> None:
    answers = Predictions(
        np.array([0, 0, 1]),
        ["ant", "ant", "bee"],
        np.full(3, 0.5, dtype=np.float32),
        np.full(3, 0.5, dtype=np.float32),
        np.array([True, False, True]),
    )
    found = judged(answers, np.array([0, 1, 1]), np.array([7, 7, 9]))
    assert found.right.tolist() == [True, False, True]
    assert found.unknown is not None
    assert found.unknown.tolist() == [False, True, False]
    assert found.groups.tolist() == [7, 7, 9]
    assert judged(answers, np.array([0, 1, 1]), None).groups.tolist() == [0, 1, 2]
