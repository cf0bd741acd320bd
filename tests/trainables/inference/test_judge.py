"""Metrics of the model that answers, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from trainables.inference.judge import ModelAnswers, Truth, class_mean, judge, right_answers

KNOWN = 2
# images: two of class 0, two of class 1, two of new class 2, one of new class 3, two unknown ones
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, -1, -1])
SURE, UNSURE = 0.9, 0.1


def answers(outputs: list[int], sure: list[float], classes: list[int]) -> ModelAnswers:
    logits = 4.0 * torch.nn.functional.one_hot(torch.tensor(outputs), len(classes))
    return ModelAnswers(logits, torch.tensor(sure), 0.5, torch.tensor(classes))


TRUTH = Truth(LABELS, torch.tensor([200, 5]), many_above=100, few_below=20, bins=15)
BEFORE = answers(
    [0, 1, 1, 1, 0, 1, 0, 0, 0],
    [SURE, SURE, SURE, UNSURE, UNSURE, SURE, UNSURE, UNSURE, SURE],
    [0, 1],
)
# output 2 is new class 2; output 3 is a cluster of no class
AFTER = answers(
    [0, 0, 1, 1, 2, 2, 3, 3, 2],
    [SURE, SURE, SURE, SURE, SURE, UNSURE, UNSURE, SURE, UNSURE],
    [0, 1, 2, -1],
)


def test_right_answers_before_the_update() -> None:
    found = right_answers(BEFORE, LABELS, KNOWN).tolist()
    # the class; a wrong class; the class; known but called unknown; new and called unknown ...
    assert found == [True, False, True, False, True, False, True, True, False]


def test_right_answers_after_the_update() -> None:
    found = right_answers(AFTER, LABELS, KNOWN).tolist()
    # class 2 is learned: "unknown" is no longer right; class 3 is not, so "unknown" is right;
    # a cluster without a class is never right
    assert found == [True, True, True, True, True, False, True, False, True]


def test_metrics_before_the_update() -> None:
    found = judge(BEFORE, TRUTH)
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["accuracy/balanced"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["accuracy/many"] == pytest.approx(1 / 2)
    assert found["accuracy/few"] == pytest.approx(1.0)
    assert "accuracy/new" not in found  # it has learned none
    assert found["accuracy/open"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2 + 1) / 4)
    assert found["novelty/false_alarm"] == pytest.approx(1 / 4)
    assert found["novelty/recall"] == pytest.approx(1 / 2)
    # known .9 .9 .9 .1 against unknown .1 .9: ties count half
    assert found["novelty/auroc"] == pytest.approx((3 * 1.5 + 0.5) / 8)
    stated = float(torch.tensor([4.0, 0.0]).softmax(0)[0])
    assert found["calibration/ece"] == pytest.approx(abs(3 / 4 - stated))


def test_metrics_after_the_update() -> None:
    found = judge(AFTER, TRUTH)
    assert found["accuracy/balanced"] == 1.0
    assert found["accuracy/new"] == pytest.approx((1 + 0) / 2)  # class 2 right, class 3 not
    assert found["accuracy/open"] == pytest.approx((1 + 1 + 1 / 2 + 1) / 4)
    assert found["novelty/false_alarm"] == 0.0


def test_a_known_image_that_is_called_new_is_wrong() -> None:
    found = judge(answers([2, 0, 1, 1, 2, 2, 2, 2, 2], [SURE] * 9, [0, 1, 2]), TRUTH)
    assert found["accuracy/balanced"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["accuracy/open"] == pytest.approx((1 / 2 + 1 + 1 + 0) / 4)


def test_without_unknown_or_new_images_their_metrics_are_left_out() -> None:
    rows = (LABELS >= 0) & (LABELS < KNOWN)
    only = ModelAnswers(AFTER.logits[rows], AFTER.confidence[rows], 0.5, AFTER.classes)
    found = judge(only, TRUTH._replace(labels=LABELS[rows]))
    assert "novelty/auroc" not in found
    assert "accuracy/new" not in found
    assert found["accuracy/open"] == 1.0


def test_a_known_class_is_never_rightly_unknown_whatever_a_model_has_learned() -> None:
    one = answers([0, 0, 0, 0], [SURE, UNSURE, SURE, UNSURE], [0, 2])  # knows class 0 alone
    labels = torch.tensor([0, 0, 1, 1])
    assert right_answers(one, labels, num_known=2).tolist() == [True, False, False, False]


def test_a_confidence_at_the_threshold_is_known() -> None:
    level = answers([0, 1], [0.5, 0.5], [0, 1])  # and the threshold is 0.5
    labels = torch.tensor([0, 1])
    assert right_answers(level, labels, KNOWN).tolist() == [True, True]
    assert judge(level, TRUTH._replace(labels=labels))["novelty/false_alarm"] == 0.0


@pytest.mark.parametrize(("bins", "ece"), [(15, (0.1 + 0.6) / 2), (1, 0.25)])
def test_the_calibration_error_has_the_bins_of_the_recipe(bins: int, ece: float) -> None:
    # right at 0.9 and wrong at 0.6
    logits = torch.tensor([[0.9, 0.1], [0.6, 0.4]], dtype=torch.float64).log()
    two = ModelAnswers(logits, torch.full((2,), SURE), 0.5, torch.arange(2))
    found = judge(two, TRUTH._replace(labels=torch.tensor([0, 1]), bins=bins))
    assert found["calibration/ece"] == pytest.approx(ece)


def test_mean_over_classes() -> None:
    values, labels = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([3, 3, 3, 9])
    assert class_mean(values, labels) == pytest.approx((1 / 3 + 1) / 2)
    assert class_mean(values[:0], labels[:0]) != class_mean(values[:0], labels[:0])  # NaN
