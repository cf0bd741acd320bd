"""The choice among variants: metrics by hand, ties, and a choice that is repeated inside."""

import numpy as np
import pytest

from orchestrator.fitting.trying.choosing import Answered, choose, paired_gain, scores


def answered(right, labels, groups=None, prior=None) -> Answered:
    labels = np.array(labels)
    classes = int(labels.max()) + 1
    return Answered(
        np.array(right, dtype=bool),
        labels,
        np.arange(len(labels)) if groups is None else np.array(groups),
        np.full(classes, 1 / classes) if prior is None else np.array(prior),
    )


def test_metrics_by_hand() -> None:
    found = answered([[1, 1, 1, 0, 1]], [0, 0, 0, 0, 1], prior=[0.9, 0.1])
    every = np.ones((1, 5))
    assert scores(found, every, "balanced")[0, 0] == pytest.approx((0.75 + 1) / 2)
    assert scores(found, every, "accuracy")[0, 0] == pytest.approx(0.9 * 0.75 + 0.1)
    assert scores(found, every, "worst-class")[0, 0] == pytest.approx(min(4 / 6, 2 / 3))
    twice = np.array([[2.0, 0, 0, 2, 0]])  # class 1 is not drawn
    assert scores(found, twice, "balanced")[0, 0] == 0.5
    assert scores(found, twice, "accuracy")[0, 0] == 0.5
    assert scores(found, twice, "worst-class")[0, 0] == 0.5


def test_balanced_choice_differs_from_that_by_accuracy() -> None:
    labels = [0] * 8 + [1, 1]
    frequent, rare = [1] * 8 + [0, 0], [1] * 6 + [0, 0] + [1, 1]
    found = answered([frequent, rare], labels, prior=[0.8, 0.2])
    assert choose(found, base=0, metric="balanced").best == 1
    found = answered([frequent, rare], labels, prior=[0.95, 0.05])
    assert choose(found, base=0, metric="accuracy").best == 0
    assert choose(found, base=0, metric="worst-class").best == 1


def test_the_base_is_served_on_a_tie_and_where_nothing_is_shown() -> None:
    labels = np.repeat([0, 1], 30)
    equal = np.tile([1, 0, 1], 20)
    choice = choose(answered([equal, equal], labels), base=1, metric="balanced")
    assert (choice.best, choice.served) == (1, 1)
    assert (choice.gain.mean, choice.gain.low, choice.gain.high) == (0, 0, 0)
    better = equal.copy()
    better[1] = 1  # one image of sixty
    choice = choose(answered([equal, better], labels), base=0, metric="balanced")
    assert (choice.best, choice.served) == (1, 0)
    assert choice.gain.low <= 0
    # where the base is the best, others that win in some samples are no gain or loss of the choice
    other = np.roll(equal, 1)
    choice = choose(answered([better, other], labels), base=0, metric="balanced")
    assert (choice.best, choice.served) == (0, 0)
    assert (choice.gain.mean, choice.gain.low, choice.gain.high) == (0, 0, 0)


def test_a_variant_that_is_really_better_is_served() -> None:
    labels = np.repeat([0, 1], 100)
    base, better = np.arange(200) % 2 == 0, np.arange(200) % 10 != 0
    choice = choose(answered([base, better], labels), base=0, metric="balanced")
    assert choice.served == choice.best == 1
    assert choice.gain.mean == pytest.approx(0.4, abs=0.02)
    assert 0.25 < choice.gain.low < choice.gain.mean < choice.gain.high < 0.55


def test_the_best_of_many_guessers_is_honestly_a_guesser() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((200, 80)) < 0.5
    choice = choose(answered(right, np.repeat([0, 1], 40)), base=0, metric="balanced")
    seen = scores(answered(right, np.repeat([0, 1], 40)), np.ones((1, 80)), "balanced").max()
    assert seen > 0.62
    assert choice.honest.mean == pytest.approx(0.5, abs=0.04)
    assert choice.served == 0


def test_images_of_a_group_are_drawn_together() -> None:
    # 2 groups of 50 equal images each per class: alone they would look like 100 images
    labels = np.repeat([0, 1], 100)
    groups = np.repeat([0, 1, 2, 3], 50)
    better = np.repeat([1, 0, 1, 0], 50)
    alone = choose(answered([1 - better, better | 1], labels), base=0, metric="balanced")
    grouped = choose(answered([1 - better, better | 1], labels, groups), base=0, metric="balanced")
    width = [choice.gain.high - choice.gain.low for choice in (alone, grouped)]
    assert width[1] > 4 * width[0]


def test_groups_are_drawn_within_their_class() -> None:
    """The only group of a class is in each sample, so that nothing outside judges the class."""
    right = [1] * 20 + [0]
    choice = choose(answered([right, right], [0] * 20 + [1]), base=0, metric="balanced")
    assert (choice.honest.mean, choice.honest.low, choice.honest.high) == (1.0, 1.0, 1.0)


def test_a_choice_needs_images() -> None:
    empty = Answered(np.zeros((2, 0), dtype=bool), np.zeros(0, int), np.zeros(0, int), np.ones(2))
    with pytest.raises(ValueError, match="at least one image"):
        choose(empty, base=0, metric="balanced")


@pytest.mark.parametrize("base", [0, 1])
def test_a_paired_gain_is_the_other_ones_over_the_base(base: int) -> None:
    labels = np.repeat([0, 1], 100)
    half, all_but_some = np.arange(200) % 2 == 0, np.arange(200) % 10 != 0
    pair = [half, all_but_some] if base == 0 else [all_but_some, half]
    gain = paired_gain(answered(pair, labels), base=base, metric="balanced")
    assert gain.mean == pytest.approx(0.4)
    # differences of an image: .1 times -1, .5 times 1, .4 times 0 in each class of 100
    deviation = np.sqrt((0.6 - 0.4**2) / 200)
    assert gain.low == pytest.approx(0.4 - 1.96 * deviation, abs=0.015)
    assert gain.high == pytest.approx(0.4 + 1.96 * deviation, abs=0.015)
    back = paired_gain(answered(pair, labels), base=1 - base, metric="balanced")
    assert (back.mean, back.low, back.high) == pytest.approx((-gain.mean, -gain.high, -gain.low))
