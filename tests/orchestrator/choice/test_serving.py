"""Which of a recipe's two models answers: values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.choice.selection import Answers
from orchestrator.choice.serving import choose_served
from trainables.methods.gates import Gate

LABELS = np.repeat(np.arange(4), 50)  # two known classes, two new ones
KNOWN = LABELS < 2


def world(first: Any, updated: Any, closed: tuple[Any, Any] | None = None) -> dict[str, Any]:
    """Arrays of an evaluation: right answers of both models, predictions on known images."""
    before, after = closed or (first, updated)
    wrong = (LABELS + 1) % 4
    return {
        "labels": LABELS,
        "predicted": np.where(before, LABELS, wrong),
        "updated": np.where(after, LABELS, wrong),
        "first_right": first,
        "updated_right": updated,
        "confidence": np.zeros(len(LABELS)),
        "band": np.zeros(2),
    }


def right(*each: int) -> Any:
    """The first so many of each class's 50 images are right."""
    return np.concatenate([np.arange(50) < number for number in each])


def test_the_update_answers_if_it_gives_more_right_answers() -> None:
    one = Answers.of([world(right(45, 45, 20, 20), right(45, 45, 40, 40))])
    found = choose_served([one])
    assert found.served == "updated"
    assert found.difference.mean == pytest.approx((0 + 0 + 0.4 + 0.4) / 4)
    assert found.difference.low > 0.1


def test_classes_count_alike_whatever_their_number_of_images() -> None:
    arrays = world(right(45, 45, 20, 20), right(45, 45, 40, 20))
    rows = (LABELS != 2) | (np.arange(200) % 50 < 10)  # the class that gains has ten images
    few = {name: value[rows] if len(value) == 200 else value for name, value in arrays.items()}
    gain = choose_served([Answers.of([few])]).difference.mean
    assert gain == pytest.approx(
        (arrays["updated_right"] * 1.0 - arrays["first_right"])[rows].sum() / 40
    )


def test_an_unknown_image_that_was_noticed_is_not_given_away() -> None:
    noticed = right(45, 45, 45, 45)  # without the update: "unknown" is right for a new image
    named = right(45, 45, 40, 40)
    found = choose_served([Answers.of([world(noticed, named)])])
    assert found.served == "first"
    assert found.difference.mean == pytest.approx(-0.05)
    assert "not significantly more" in found.reason


def test_a_class_that_is_named_at_last_is_no_gain_over_having_noticed_it() -> None:
    noticed, named = right(45, 45, 45, 45), right(45, 45, 40, 40)
    closed = (right(45, 45, 0, 0), named)  # the classes alone, without the answer "unknown"
    found = choose_served([Answers.of([world(noticed, named, closed)])])
    assert found.served == "first"
    assert found.difference.mean == pytest.approx(-0.05)


def test_a_gain_within_noise_is_none() -> None:
    found = choose_served([Answers.of([world(right(45, 45, 20, 20), right(45, 45, 21, 20))])])
    assert found.difference.mean == pytest.approx(0.005)
    assert found.difference.low <= 0
    assert found.served == "first"


def test_known_classes_lose_no_more_than_the_gate_allows() -> None:
    first, updated = right(45, 45, 10, 10), right(45, 45, 45, 45)
    for lost, served in ((0, "updated"), (4, "first")):  # of 50 images of each known class
        closed = (right(45, 45, 0, 0), right(45 - lost, 45 - lost, 45, 45))
        found = choose_served([Answers.of([world(first, updated, closed)])])
        assert found.served == served, lost
    gate: Any = Gate.parse({"forgetting": {"allowed_regression": 10.0}})
    closed = (right(45, 45, 0, 0), right(41, 41, 45, 45))
    found = choose_served([Answers.of([world(first, updated, closed)])], gate)
    assert found.served == "updated"


def test_seeds_that_disagree_widen_the_interval() -> None:
    good = Answers.of([world(right(45, 45, 20, 20), right(45, 45, 40, 40))])
    bad = Answers.of([world(right(45, 45, 40, 40), right(45, 45, 20, 20))])
    both = choose_served([good, bad])
    assert both.difference.mean == pytest.approx(0.0)
    assert both.served == "first"
    assert choose_served([good, good]).served == "updated"


def test_two_validation_worlds_average_known_images_and_keep_new_ones_apart() -> None:
    one = world(right(50, 0, 50, 0), right(0, 0, 50, 0))
    other = world(right(0, 0, 0, 0), right(50, 50, 0, 50))
    joined = Answers.of([one, other])
    assert joined.labels.tolist() == [0] * 50 + [1] * 50 + [2] * 50 + [3] * 50 + [4] * 50 + [5] * 50
    per_class = [joined.updated_right[joined.labels == c].mean() for c in range(6)]
    assert per_class == [0.5, 0.5, 1.0, 0.0, 0.0, 1.0]
    assert [joined.first_right[joined.labels == c].mean() for c in range(6)] == [0.5, 0, 1, 0, 0, 0]


def test_seeds_may_have_other_images() -> None:
    one = Answers.of([world(right(45, 45, 20, 20), right(45, 45, 40, 40))])
    rows = np.arange(200) % 50 < 30
    arrays = world(right(30, 30, 10, 10), right(30, 30, 25, 25))
    other = Answers.of([{k: v[rows] if len(v) == 200 else v for k, v in arrays.items()}])
    both = choose_served([one, other])
    assert both.difference.mean == pytest.approx((0.8 / 4 + 1.0 / 4) / 2)
    assert both.served == "updated"
    alone = choose_served([one])
    assert both.difference.low < alone.difference.mean < both.difference.high
