"""Harm that is shown, excluded, or neither; and how many images would tell."""

from __future__ import annotations

import math

import pytest

from trainables.functional.paired_rules import (
    Gain,
    Rate,
    images_needed,
    judge_gain,
    judge_rate,
    matched_interval,
)
from trainables.methods.gates.chance import Chance


def gain(value: float, half: float, number: int = 400, effective: float = 400) -> Gain:
    low, high = value - half, value + half
    return Gain("accuracy", value, low, high, 0.8 + value, 0.8, half, effective, number)


@pytest.mark.parametrize(
    ("value", "half", "verdict"),
    [
        (-0.05, 0.03, "refused"),  # [-8, -2]
        (-0.05, 0.04, "cannot tell"),  # [-9, -1]: the end is the limit itself
        (-0.05, 0.06, "cannot tell"),  # [-11, +1]
        (0.00, 0.02, "cannot tell"),  # [-2, +2]
        (0.00, 0.01, "passed"),  # [-1, +1]: a loss that equals the limit is allowed
        (0.02, 0.025, "passed"),
        (0.02, 0.035, "cannot tell"),
    ],
)
def test_interval_and_allowance_decide(value: float, half: float, verdict: str) -> None:
    found = judge_gain(gain(value, half), 1.0)
    assert found.verdict == verdict
    assert (found.needs is None) is (verdict != "cannot tell")


def test_the_reason_has_both_values_the_interval_and_the_allowance() -> None:
    found = judge_gain(gain(-0.05, 0.03)._replace(where=" on 9 images"), 1.0)
    assert found.reason == (
        "test/accuracy 0.7500 against 0.8000 on 9 images: -5.00 points [-8.00, -2.00], allowed "
        "-1.00"
    )
    unsure = judge_gain(gain(0, 0.02)._replace(unit="rehearsed classes"), 1.0)
    assert unsure.reason.endswith(
        "a loss of more than 1.00 points is neither shown nor excluded: that needs about 3,300 "
        "rehearsed classes"
    )


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("mine", "the figure of the newer version"),
        ("theirs", "the figure of the other version"),
        ("value", "the gain"),
        ("low", "an end of its interval"),
        ("high", "an end of its interval"),
        ("spread", "the spread of its interval"),
    ],
)
def test_a_figure_that_is_no_number_tells_nothing(odd: float, field: str, what: str) -> None:
    """Without the check NaN was a traceback, an infinite end passed, and equal answers passed."""
    found = gain(0.05, 0.01)._replace(where=" on 9 images", **{field: odd})
    for one in (found, found._replace(same=True)):
        for decision in (judge_gain(one, 1.0), Chance().judge(one)):
            assert decision.verdict == "cannot tell"
            assert decision.needs is None
            assert decision.reason.endswith(f" on 9 images: {what} is no number ({odd})")


@pytest.mark.parametrize("field", ["value", "low", "high"])
def test_a_rate_that_is_no_number_tells_nothing(field: str) -> None:
    rate = Rate("few", 0.1, 0.05, 0.2, 40, 40)._replace(**{field: math.nan})
    found = judge_rate(rate, 0.3)
    assert (found.verdict, found.needs) == ("cannot tell", None)
    assert found.reason.endswith(" of 40 images is no number")


def test_the_number_that_would_tell_grows_with_the_square_of_the_spread() -> None:
    # 80 % power: (1.96 + .84)^2 / 1.96^2 = 2.043 times as many as make the interval so narrow
    assert images_needed(gain(0.0, 0.02), 0.01) == 3300  # 400 * 2^2 * 2.043 = 3,269
    assert images_needed(gain(0.01, 0.04), 0.01) == 3300  # distance .02
    assert images_needed(gain(-0.01, 0.04), 0.01) == 53_000  # none: half the limit, 52,304
    assert images_needed(gain(0.0, 0.0101), 0.01) == 840  # 833.7
    # without a spread the number alone widens: 1.96 / (n + 2) = .01 at n = 194
    assert images_needed(gain(0.0, 0.0, 6, 6), 0.01) == 200
    assert images_needed(gain(0.0, 0.0, 12, 6), 0.01) == 390  # two images count as one


@pytest.mark.parametrize(("lost", "won", "number"), [(5, 0, 20), (12, 4, 40), (0, 0, 1)])
def test_interval_of_few_images_is_that_of_agresti_and_min(
    lost: int, won: int, number: int
) -> None:
    value = (won - lost) / number
    variance = (lost + won - (won - lost) ** 2 / number) / number**2
    low, high = matched_interval(value, 1.96 * variance**0.5, number)
    b, c, n = lost + 0.5, won + 0.5, number + 2
    half = 1.96 * (b + c - (b - c) ** 2 / n) ** 0.5 / n
    assert (low, high) == pytest.approx(((c - b) / n - half, (c - b) / n + half))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.11, 0.3, "refused"), (0.1, 0.3, "cannot tell"), (0.02, 0.1, "passed")],
)
def test_a_rate_fails_wholly_above_its_limit(low: float, high: float, verdict: str) -> None:
    assert judge_rate(Rate("few", 0.1, low, high, 50, 50), 0.1).verdict == verdict


def test_the_number_that_would_tell_a_rate_is_bounded_where_rate_and_limit_are_equal() -> None:
    # the distance is a quarter of the limit, .025: 2.043 * (1.96 / .025)^2 * .1 * .9 = 1,130
    assert judge_rate(Rate("few", 0.1, 0.05, 0.2, 40, 40), 0.1).needs == 1200
    assert judge_rate(Rate("few", 0.0, 0.0, 0.1, 40, 40), 0.0).needs == 41  # nothing is told by 40


def test_the_number_that_would_tell_a_rate() -> None:
    # 2.043 * (1.96 / .05)^2 * .1 * .9 = 282.5; each image weighs half of an independent one
    rate = Rate("few", 0.15, 0.05, 0.3, 20, 40)
    assert judge_rate(rate, 0.1).needs == 570
    assert judge_rate(rate, 0.1).reason == "few 0.150 [0.050, 0.300] of 40 images (needs about 570)"
