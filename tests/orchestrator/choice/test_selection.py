"""The winner beats the base recipe beyond noise on validation, or the base recipe wins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from orchestrator.choice.selection import (
    Answers,
    FoldAnswers,
    auroc,
    classes_judged,
    difference,
    select,
)
from orchestrator.records import FinalistRecord, Interval, Objective, SweepRecord, interval, winner

BALANCED = "evaluate/accuracy/balanced"
KNOWN, NOVEL = 3, 2
PER_CLASS = np.array([40, 40, 40, 30, 30])


def answers(accuracy: float, seed: int, *, after: float = 0.5, gap: float = 1.0) -> Answers:
    """Answers that are right with a probability, drawn image by image."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(KNOWN + NOVEL), PER_CLASS)
    wrong = (labels + 1) % KNOWN
    known = labels < KNOWN
    predicted = np.where(known & (rng.random(len(labels)) < accuracy), labels, wrong)
    updated = np.where(rng.random(len(labels)) < after, labels, -1)
    confidence = rng.normal(size=len(labels)) + gap * known
    return of_classes(labels, predicted, updated, confidence, np.array([0, 1, 2]))


def of_classes(labels: Any, predicted: Any, updated: Any, confidence: Any, band: Any) -> Answers:
    """Answers that predict these classes."""
    world = {
        "labels": labels,
        "predicted": predicted,
        "updated": updated,
        "first_right": predicted == labels,
        "updated_right": updated == labels,
        "confidence": confidence,
        "band": band,
    }
    return Answers.of([world])


def several(accuracy: float, start: int = 0, count: int = 3, **more: float) -> list[Answers]:
    return [answers(accuracy, start + seed, **more) for seed in range(count)]


def balanced(found: Answers) -> float:
    return float(np.mean([np.mean(found.predicted[found.labels == c]) for c in range(KNOWN)]))


def test_difference_is_that_of_the_metric() -> None:
    better, base = several(0.9), several(0.6, start=10)
    found = difference(BALANCED, better, base)
    assert found is not None
    wanted = np.mean([balanced(a) - balanced(b) for a, b in zip(better, base, strict=True)])
    assert found.mean == pytest.approx(wanted, abs=1e-12)
    assert found.low < found.mean < found.high


def test_difference_by_hand() -> None:
    """Class 0 has one image, class 1 has three, class 2 is new; two seeds."""
    labels = np.array([0, 1, 1, 1, 2, 2])
    band, confidence = np.array([2, 0]), np.array([3.0, 1.0, 2.0, 0.0, 0.5, 0.0])

    def of(predicted: list[int], updated: list[int], shift: float = 0.0) -> Answers:
        moved = confidence + shift * (labels == 2)
        return of_classes(labels, np.array(predicted), np.array(updated), moved, band)

    better = [
        of([0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 2, -1]),  # 1, 2/3; 1, 1, 1/2
        of([0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 2, 2]),  # 1, 1; 0, 1/3, 1
    ]
    base = [
        of([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 2], 1.0),  # 0, 1/3; 1, 1/3, 1/2
        of([0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0], 1.0),  # 1, 0; 0, 0, 0
    ]
    wanted = {
        BALANCED: ((1 - 0 + 1 - 1) / 2 + (2 / 3 - 1 / 3 + 1 - 0) / 2) / 2,
        "evaluate/accuracy/few": (1 - 0 + 1 - 1) / 2,
        "evaluate/accuracy/many": (2 / 3 - 1 / 3 + 1 - 0) / 2,
        "evaluate/accuracy/medium": 0.0,
        "evaluate/update/accuracy": (0 + (2 / 3 + 1 / 3) / 2 + (0 + 1) / 2) / 3,
        "evaluate/update/accuracy/known": (0 + (2 / 3 + 1 / 3) / 2) / 2,
        "evaluate/update/accuracy/novel": (0 + 1) / 2,
        # known 3, 1, 2, 0 over new .5, 0: 3 of 4 over .5, 3 and a tie over 0; then over 1.5, 1
        "evaluate/novelty/auroc": (3 + 3.5) / 8 - (2 + 2.5) / 8,
    }
    for metric, mean in wanted.items():
        found = difference(metric, better, base)
        assert found is not None
        assert found.mean == pytest.approx(mean, abs=1e-12), metric
        assert found.low <= found.mean <= found.high


def test_images_are_drawn_within_their_class_and_seeds_as_a_whole() -> None:
    """Where all images of a class and all seeds agree, nothing is left to draw."""
    labels, none = np.repeat([0, 1], [30, 3]), np.zeros(33, dtype=np.int64)
    band, confidence = np.array([0, 2]), np.zeros(33)
    right = of_classes(labels, labels, none, confidence, band)
    half = of_classes(labels, np.where(labels == 0, 0, 7), none, confidence, band)
    found = difference(BALANCED, [right] * 2, [half] * 2)
    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5))
    # one of two seeds is better: the drawn share of it is 0, 1/2 or 1, with 1/4, 1/2, 1/4
    found = difference(BALANCED, [right, right], [half, right], draws=4000)
    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((0.0, 0.25, 0.5))


def test_interval_has_the_width_of_a_normal_approximation() -> None:
    better, base = several(0.8, count=1), several(0.6, start=10, count=1)
    found = difference(BALANCED, better, base, draws=8000)
    assert found is not None
    gains = [better[0].predicted - base[0].predicted][0]
    variance = sum(np.var(gains[base[0].labels == c]) / 40 for c in range(KNOWN)) / KNOWN**2
    half = norm.ppf(0.975) * np.sqrt(variance)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_intervals_hold_the_truth_in_95_of_100_draws() -> None:
    hits = 0
    for draw in range(100):
        better = several(0.75, start=1000 * draw)
        base = several(0.65, start=1000 * draw + 500)
        found = difference(BALANCED, better, base, seed=draw, draws=400)
        assert found is not None
        hits += found.low <= 0.10 <= found.high
    assert hits >= 88  # 95 expected; three standard deviations


def test_pairing_makes_the_interval_narrow() -> None:
    base = answers(0.7, 1)
    flips = np.flatnonzero((base.labels < KNOWN) & (base.predicted == 0))[:5]
    predicted = base.predicted.copy()
    predicted[flips] = 1
    paired = difference(BALANCED, [base._replace(predicted=predicted)], [base])
    apart = difference(BALANCED, [answers(0.75, 77)], [base])
    assert paired is not None
    assert apart is not None
    assert paired.low > 0
    assert paired.high - paired.low < (apart.high - apart.low) / 2


@pytest.mark.parametrize(
    ("metric", "classes", "field"),
    [
        (BALANCED, [0, 1, 2], "predicted"),
        ("evaluate/accuracy/many", [0], "predicted"),
        ("evaluate/accuracy/medium", [1], "predicted"),
        ("evaluate/accuracy/few", [2], "predicted"),
        ("evaluate/update/accuracy", [0, 1, 2, 3, 4], "updated"),
        ("evaluate/update/accuracy/known", [0, 1, 2], "updated"),
        ("evaluate/update/accuracy/novel", [3, 4], "updated"),
    ],
)
def test_metrics_are_means_over_these_classes(metric: str, classes: list[int], field: str) -> None:
    found = classes_judged(metric, answers(0.5, 0))
    assert found is not None
    assert (found[0].tolist(), found[1]) == (classes, field)


@pytest.mark.parametrize("metric", ["evaluate/calibration/ece", "evaluate/update/forgetting", "x"])
def test_other_metrics_are_no_means_of_images(metric: str) -> None:
    assert classes_judged(metric, answers(0.5, 0)) is None
    assert difference(metric, several(0.5), several(0.5)) is None


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 9, 50).astype(float), rng.integers(0, 7, 40).astype(float)
    pairs = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    assert auroc(high, low) == pytest.approx(pairs.mean(), abs=1e-12)


def test_difference_of_auroc() -> None:
    good, poor = several(0.5, gap=2.5), several(0.5, start=9, gap=0.2)
    found = difference("evaluate/novelty/auroc", good, poor)
    assert found is not None
    assert found.low > 0.1
    same = difference("evaluate/novelty/auroc", good, several(0.5, start=20, gap=2.5))
    assert same is not None
    assert same.low < 0 < same.high


def separation(found: Answers) -> float:
    known = found.labels < KNOWN
    return auroc(found.confidence[known], found.confidence[~known])


def test_seeds_with_other_images_are_averaged_and_drawn_apart() -> None:
    better, base = several(0.9, gap=2.0), several(0.6, start=10)
    rows = np.arange(len(base[0].labels)) % 2 == 0

    def half(found: Answers) -> Answers:
        return found._replace(**{f: getattr(found, f)[rows] for f in Answers._fields[:6]})

    mixed = ([better[0], half(better[1])], [base[0], half(base[1])])
    for metric, value in ((BALANCED, balanced), ("evaluate/novelty/auroc", separation)):
        found = difference(metric, *mixed)
        assert found is not None
        wanted = np.mean([value(a) - value(b) for a, b in zip(*mixed, strict=True)])
        assert found.mean == pytest.approx(wanted, abs=1e-12), metric
        assert 0 < found.low <= found.mean <= found.high


def test_answers_to_other_images_are_refused() -> None:
    shifted = answers(0.5, 0)
    with pytest.raises(ValueError, match="cannot be paired"):
        difference(BALANCED, [shifted._replace(labels=shifted.labels[::-1])], [answers(0.5, 0)])


# --- the choice -------------------------------------------------------------------------------

OBJECTIVES = [Objective(metric=BALANCED, mode="max")]


def record(name: str, found: list[Answers], test: float = 0.5) -> FinalistRecord:
    return FinalistRecord(
        trial_id=name,
        params={"x": name},
        seeds=list(range(1, len(found) + 1)),
        metrics={
            f"validation/{BALANCED}": interval([balanced(a) for a in found]),
            BALANCED: interval([test] * len(found)),
        },
    )


def chosen(tests: tuple[float, float] = (0.5, 0.5), **found: list[Answers]) -> str:
    (good, base), records = found.values(), []
    for (name, seeds), test in zip(found.items(), tests, strict=True):
        records.append(record(name, seeds, test))
    assert len(good) == len(base)
    return select(records, OBJECTIVES, found, base="base").winner


def test_a_clear_gain_wins() -> None:
    assert chosen(trial=several(0.95), base=several(0.5, start=50)) == "trial"


def test_a_gain_within_noise_leaves_the_base() -> None:
    pair = [several(0.60, start=3), several(0.60, start=50)]
    base, trial = sorted(pair, key=lambda seeds: np.mean([balanced(a) for a in seeds]))
    assert np.mean([balanced(a) for a in trial]) > np.mean([balanced(a) for a in base])
    assert chosen(trial=trial, base=base) == "base"


def test_test_metrics_have_no_say() -> None:
    better, worse = several(0.95), several(0.5, start=50)
    assert chosen((0.1, 0.9), trial=better, base=worse) == "trial"
    assert chosen((0.9, 0.1), trial=worse, base=better) == "base"


def test_the_challenger_is_the_best_on_validation_among_several() -> None:
    found = {
        "good": several(0.95),
        "poor": several(0.6, start=30),
        "base": several(0.4, start=50),
    }
    for tests in ((0.1, 0.9, 0.5), (0.9, 0.1, 0.99)):
        records = [record(n, seeds, t) for (n, seeds), t in zip(found.items(), tests, strict=True)]
        for order in (records, records[::-1]):
            choice = select(order, OBJECTIVES, found, base="base")
            assert (choice.winner, choice.challenger) == ("good", "good")
            assert choice.difference is not None
            wanted = np.mean([balanced(a) for a in found["good"]])
            wanted -= np.mean([balanced(a) for a in found["base"]])
            assert choice.difference.mean == pytest.approx(wanted)


def test_one_seed_has_the_noise_of_the_images() -> None:
    assert chosen(trial=several(0.95, count=1), base=several(0.4, start=50, count=1)) == "trial"
    close = several(0.62, start=3, count=1), several(0.60, start=50, count=1)
    assert chosen(trial=close[0], base=close[1]) == "base"


def test_direction_of_the_objective_counts() -> None:
    lower = [Objective(metric=BALANCED, mode="min")]
    found = {"trial": several(0.3), "base": several(0.9, start=50)}
    records = [record(name, seeds) for name, seeds in found.items()]
    assert select(records, lower, found, base="base").winner == "trial"
    assert select(records, OBJECTIVES, found, base="base").winner == "base"


def test_without_a_base_the_best_finalist_wins_and_it_is_said() -> None:
    found = {"a": several(0.5), "b": several(0.8, start=50)}
    records = [record(name, seeds) for name, seeds in found.items()]
    choice = select(records, OBJECTIVES, found, base=None)
    assert choice.winner == "b"
    assert "did not complete" in choice.reason


def test_a_metric_of_no_single_image_is_compared_over_seeds() -> None:
    metric = "evaluate/calibration/ece"
    objectives = [Objective(metric=metric, mode="min")]

    def of(name: str, values: list[float]) -> FinalistRecord:
        return record(name, several(0.5)).model_copy(
            update={"metrics": {f"validation/{metric}": interval(values)}}
        )

    found = {"trial": several(0.5), "base": several(0.5)}
    clear = [of("trial", [0.02, 0.021, 0.019]), of("base", [0.10, 0.11, 0.09])]
    assert select(clear, objectives, found, base="base").winner == "trial"
    noisy = [of("trial", [0.02, 0.11, 0.03]), of("base", [0.10, 0.01, 0.09])]
    assert select(noisy, objectives, found, base="base").winner == "base"
    single = [of("trial", [0.02]), of("base", [0.10])]
    choice = select(single, objectives, found, base="base")
    assert choice.winner == "base"
    assert "one seed" in choice.reason


def test_the_recorded_choice_is_the_winner() -> None:
    pair = [several(0.60, start=3), several(0.60, start=50)]
    base, trial = sorted(pair, key=lambda seeds: np.mean([balanced(a) for a in seeds]))
    found = {"trial": trial, "base": base}
    records = [record(name, seeds) for name, seeds in found.items()]
    sweep = SweepRecord(
        name="s", space="full", started="", experiment={}, objectives=OBJECTIVES,
        environment={}, finalists=records,
    )  # fmt: skip
    assert winner(sweep).trial_id == "trial"  # a record of before: the best on validation
    sweep.selection = select(records, OBJECTIVES, found, base="base")
    assert winner(sweep).trial_id == "base"
    assert isinstance(sweep.selection.difference, Interval)


# --- out of fold -----------------------------------------------------------------------------

FOLDED = "out_of_fold/accuracy"
COUNTS = np.array([60, 20, 10])
CLASSES = np.repeat(np.arange(3), COUNTS)


def folded(right: Any, groups: Any = None) -> Answers:
    """Answers to training images out of fold, of a recipe that answers the test images alike."""
    groups = np.arange(len(CLASSES)) if groups is None else groups
    found = FoldAnswers(CLASSES, groups, np.asarray(right, dtype=np.float64))
    return answers(0.5, 0)._replace(out_of_fold=found)


BASE_RIGHT = np.ones(90)
BASE_RIGHT[[*range(30), *range(60, 70), *range(80, 85)]] = 0


@pytest.mark.parametrize(
    ("part", "gain"),
    [
        ("", (20 + 8) / 90),
        ("/balanced", (20 / 60 + 8 / 20 + 0) / 3),
        ("/many", 20 / 60),
        ("/medium", 8 / 20),
        ("/few", 0.0),
    ],
)
def test_the_gain_out_of_fold_is_that_of_the_metric(part: str, gain: float) -> None:
    better = BASE_RIGHT.copy()
    better[[*range(20), *range(60, 68)]] = 1
    found = difference(FOLDED + part, [folded(better)], [folded(BASE_RIGHT)])
    assert found is not None
    assert found.mean == pytest.approx(gain, abs=1e-12)
    assert (found.low > 0) is (gain > 0)


def test_images_of_a_group_are_drawn_together() -> None:
    """Groups of five images that gain together are as uncertain as a fifth of the images."""
    rng = np.random.default_rng(3)
    of_groups = rng.random(18) < 0.3
    right = BASE_RIGHT * 0 + np.repeat(of_groups, 5)
    groups, zeros = np.arange(90) // 5, np.zeros(90)
    found = difference(FOLDED, [folded(right, groups)], [folded(zeros, groups)])
    alone = difference(FOLDED, [folded(right)], [folded(zeros)])
    assert found is not None
    assert alone is not None
    draws = [rng.choice(of_groups, 18).mean() for _ in range(20_000)]  # by hand
    assert found.mean == alone.mean == pytest.approx(of_groups.mean())
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=0.03)
    assert (found.high - found.low) / (alone.high - alone.low) == pytest.approx(5**0.5, rel=0.15)


def test_groups_of_different_sizes_weigh_as_their_images() -> None:
    groups = np.concatenate([np.zeros(59, dtype=np.int64), np.arange(1, 32)])
    right = np.zeros(90)
    right[0:59] = 1  # the large group of the first class alone
    found = difference(f"{FOLDED}/many", [folded(right, groups)], [folded(right * 0, groups)])
    assert found is not None
    assert found.mean == pytest.approx(59 / 60)
    assert (found.low, found.high) == (0.0, 1.0)  # it is drawn, or it is not


def test_a_closed_form_without_noise_of_seeds_does_not_win_by_an_image() -> None:
    metric = f"{FOLDED}/balanced"
    objectives, one = [Objective(metric=metric, mode="max")], BASE_RIGHT.copy()
    one[0] = 1
    for right, winner_id in ((one, "t0"), (np.ones(90), "t1")):
        gain = np.mean([np.mean(right[c == CLASSES]) for c in range(3)])
        base = np.mean([np.mean(BASE_RIGHT[c == CLASSES]) for c in range(3)])
        finalists = [
            FinalistRecord(
                trial_id=name, params={}, seeds=[1, 2, 3],
                metrics={f"validation/{metric}": interval([value] * 3)},
            )
            for name, value in (("t0", base), ("t1", gain))
        ]  # fmt: skip
        given = {"t0": [folded(BASE_RIGHT)] * 3, "t1": [folded(right)] * 3}
        found = select(finalists, objectives, given, base="t0")
        assert (found.winner, found.challenger) == (winner_id, "t1")
        assert "paired by image and seed" in found.reason


def test_recipes_without_answers_out_of_fold_are_compared_over_seeds() -> None:
    plain = answers(0.5, 0)
    assert difference(FOLDED, [folded(BASE_RIGHT)], [plain]) is None
    assert difference("out_of_fold/accuracy/expected", [plain], [plain]) is None
    other = folded(BASE_RIGHT)
    turned = FoldAnswers(CLASSES[::-1], np.arange(90), BASE_RIGHT)
    with pytest.raises(ValueError, match="predicted different images"):
        difference(FOLDED, [other._replace(out_of_fold=turned)], [other])
