"""Thresholds: golden vectors, every cut tried, and a contract for the whole shelf."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.vectors import golden, variants
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.thresholds import Threshold
from trainables.methods.thresholds.conformal import Conformal
from trainables.methods.thresholds.false_alarm import FalseAlarm
from trainables.methods.thresholds.known_recall import KnownRecall
from trainables.methods.thresholds.precision import Precision

GOLDEN = golden("openworld_scores")
METHODS = list(variants(Threshold))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def samples(count: int = 200, digits: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    known = torch.arange(count) % 3 > 0
    noise = torch.randn(count, generator=seeded(seed))
    return {"confidence": (noise + 1.5 * known).round(decimals=digits), "known": known}


def quality(called: torch.Tensor, known: torch.Tensor) -> tuple[float, float]:
    """Return precision and recall of the samples called unknown."""
    hits = float((called & ~known).sum())
    return hits / max(int(called.sum()), 1), hits / max(int((~known).sum()), 1)


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_threshold_is_a_float_that_order_does_not_change(method: Threshold) -> None:
    given = samples()
    order = torch.randperm(200, generator=seeded(1))
    threshold = method(**given)
    assert type(threshold) is float
    assert not math.isnan(threshold)
    assert method(**{k: v[order] for k, v in given.items()}) == threshold


@pytest.mark.parametrize("method", METHODS)
def test_a_monotone_change_of_confidence_changes_no_decision(method: Threshold) -> None:
    given = samples()
    bent = {"confidence": 2 * given["confidence"] - 3, "known": given["known"]}
    torch.testing.assert_close(
        given["confidence"] < method(**given), bent["confidence"] < method(**bent)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_decisions_do_not_depend_on_the_precision_they_are_taken_in(
    method: Threshold, dtype: torch.dtype
) -> None:
    given = samples()
    confidence = given["confidence"].to(dtype)
    threshold = method(confidence=confidence, known=given["known"])
    # bfloat16 is compared in float32, as scores give it
    taken = torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(confidence.to(taken) < threshold, confidence.double() < threshold)


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_at_all_calls_none_unknown(method: Threshold) -> None:
    empty = {name: value[:0] for name, value in samples().items()}
    assert method(**empty) == -math.inf


@pytest.mark.parametrize("side", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_one_sample_and_one_side_alone_are_defined(method: Threshold, side: bool) -> None:
    for count in (1, 50):
        confidence = torch.randn(count, generator=seeded())
        threshold = method(confidence=confidence, known=torch.full((count,), side))
        assert not math.isnan(threshold)


@pytest.mark.parametrize("method", METHODS)
def test_confidence_that_is_not_a_number_is_refused(method: Threshold) -> None:
    with pytest.raises(ValueError, match=f"thresholds/{method.name}: .* received NaN"):
        method(confidence=torch.tensor([math.nan, 1.0]), known=torch.tensor([True, False]))


@pytest.mark.parametrize("method", METHODS)
def test_settings_survive_a_round_trip(method: Threshold) -> None:
    assert Threshold.parse(method.dump()) == method


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.7, 0.8, 0.9])
def test_precision_makes_the_golden_choice(target: float) -> None:
    inputs = GOLDEN.inputs("threshold_selection")
    confidence, known = -inputs["score"], inputs["is_new"] == 0
    called = confidence < Precision(target=target)(confidence=confidence, known=known)
    level, precision, recall = GOLDEN.output("threshold_selection", f"thr_p{target}").tolist()
    torch.testing.assert_close(called, inputs["score"] >= level)
    assert quality(called, known) == pytest.approx((precision, recall))


@pytest.mark.parametrize("prevalence", [None, 0.05, 0.6])
@pytest.mark.parametrize("digits", [0, 1, 9])
@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_no_other_cut_reaches_the_target_with_more_recall(
    target: float, digits: int, prevalence: float | None
) -> None:
    given = samples(digits=digits, seed=digits)
    confidence, known = given["confidence"], given["known"]
    share = float((~known).double().mean()) if prevalence is None else prevalence

    def weighted(called: torch.Tensor) -> tuple[float, float]:
        found = float((called & ~known).sum() / (~known).sum())
        wrong = float((called & known).sum() / known.sum())
        total = share * found + (1 - share) * wrong
        return (share * found / total if total else 0.0), found

    levels = sorted({*confidence.tolist()})
    tried = [weighted(confidence <= level) for level in levels]
    best = max((recall for precision, recall in tried if precision >= target - 1e-9), default=0.0)
    method = Precision(target=target, prevalence=prevalence)
    precision, recall = weighted(confidence < method(**given))
    assert recall == pytest.approx(best)
    assert best == 0 or precision >= target - 1e-6


def test_prevalence_and_bound_follow_the_golden_arithmetic() -> None:
    case, inputs = "precision_prevalence", GOLDEN.inputs("precision_prevalence")
    tp, fp, new, old = (int(inputs[name]) for name in ("tp", "fp", "n_new", "n_known"))
    # two levels: the called samples, and all others, which no target below allows
    confidence = torch.tensor([0.0] * (tp + fp) + [1.0] * (new - tp + old - fp))
    known = torch.tensor([False] * tp + [True] * fp + [False] * (new - tp) + [True] * (old - fp))
    for role, settings in {
        "precision_sample": {},
        "precision_at_prevalence": {"prevalence": float(inputs["prevalence"])},
        "clopper_pearson_lower95": {"certainty": 0.95},
    }.items():
        value = float(GOLDEN.output(case, role))
        for target, called in ((value - 1e-9, tp + fp), (value + 1e-9, 0)):
            method = Precision(target=target, **settings)
            assert int((confidence < method(confidence=confidence, known=known)).sum()) == called


def test_a_certain_bound_calls_no_more_than_the_estimate() -> None:
    given = samples()
    estimate = Precision(target=0.8)(**given)
    assert Precision(target=0.8, certainty=0.95)(**given) <= estimate
    assert Precision(target=0.8, certainty=0.99)(**given) <= estimate


def test_a_rarer_unknown_calls_no_more() -> None:
    given = samples()
    found = [Precision(target=0.8, prevalence=p)(**given) for p in (0.5, 0.2, 0.05)]
    assert found == sorted(found, reverse=True)


def test_an_unreachable_precision_calls_none() -> None:
    confidence, known = torch.tensor([0.1, 0.9]), torch.tensor([True, False])
    assert Precision(target=0.9)(confidence=confidence, known=known) == -math.inf


def test_everything_is_called_where_nothing_is_known() -> None:
    confidence = torch.tensor([0.1, 0.9, 0.3])
    threshold = Precision()(confidence=confidence, known=torch.zeros(3, dtype=torch.bool))
    assert (confidence < threshold).all()
    assert math.isfinite(threshold)


def test_neighbouring_float32_confidences_are_kept_apart() -> None:
    low = torch.tensor(1.0)
    high = torch.nextafter(low, torch.tensor(2.0))
    confidence, known = torch.stack([low, high]), torch.tensor([False, True])
    threshold = Precision(target=1.0)(confidence=confidence, known=known)
    assert (confidence < threshold).tolist() == [True, False]


# --- known_recall and conformal -------------------------------------------------------------------


def test_known_recall_is_the_golden_quantile() -> None:
    inputs = GOLDEN.inputs("threshold_selection")
    confidence, known = 1 - inputs["score"], inputs["is_new"] == 0
    threshold = KnownRecall()(confidence=confidence, known=known)
    expected = float(GOLDEN.output("threshold_selection", "thr_tpr95_id"))
    assert threshold == pytest.approx(expected, abs=1e-9)
    assert float((confidence[known] >= threshold).double().mean()) >= 0.95


def test_conformal_decides_by_the_golden_p_values() -> None:
    inputs = GOLDEN.inputs("conformal_fdr")
    calibration = -inputs["calibration_known_scores"]
    pvalues = GOLDEN.output("conformal_fdr", "pvalues")
    for alpha in (0.01, 0.05, 0.1, 0.3):
        threshold = Conformal(alpha=alpha)(
            confidence=calibration, known=torch.ones(len(calibration), dtype=torch.bool)
        )
        torch.testing.assert_close(-inputs["test_scores"] < threshold, pvalues <= alpha + 1e-12)


def test_conformal_keeps_its_promise_on_new_known_samples() -> None:
    generator, called = seeded(), []
    for _ in range(2000):
        values = torch.randn(30, generator=generator)
        threshold = Conformal(alpha=0.1)(
            confidence=values[:29], known=torch.ones(29, dtype=torch.bool)
        )
        called.append(float(values[29] < threshold))
    # mean of 2000 draws with p = 0.1 has a deviation of 0.0067
    assert sum(called) / 2000 == pytest.approx(0.1, abs=0.027)


def test_conformal_says_nothing_with_too_few_samples() -> None:
    confidence, known = torch.randn(18, generator=seeded()), torch.ones(18, dtype=torch.bool)
    assert Conformal(alpha=0.05)(confidence=confidence, known=known) == -math.inf
    more = torch.randn(19, generator=seeded())
    threshold = Conformal(alpha=0.05)(confidence=more, known=torch.ones(19, dtype=torch.bool))
    assert threshold == pytest.approx(float(more.min()))


# --- false alarm --------------------------------------------------------------------------------


def test_false_alarm_is_the_weighted_quantile_by_hand() -> None:
    sure, known = torch.tensor([3.0, 1.0, 2.0, 9.0]), torch.tensor([True, True, True, False])
    # weights 1 (of 1.0), 2 (of 2.0), 1 (of 3.0): W = 4, e = 6/4, F = 1/5.5, 3/5.5, 4/5.5
    given = {"confidence": sure, "known": known, "weights": torch.tensor([1.0, 1.0, 2.0, 7.0])}
    method = FalseAlarm(level=2 / 5.5)
    assert method(**given) == pytest.approx(1.5)
    assert FalseAlarm(level=0.99)(**given) == 3.0
    # W / e is 2.67 images: enough to tell a level of 1 / 3.67, not one below
    assert FalseAlarm(level=1 / 3.6)(**given) > -math.inf
    assert FalseAlarm(level=1 / 3.8)(**given) == -math.inf


def test_nineteen_images_tell_five_percent_and_eighteen_do_not() -> None:
    sure = torch.arange(19.0)
    assert FalseAlarm()(confidence=sure) == 0.0
    assert FalseAlarm()(confidence=sure[:18]) == -math.inf


def test_offsets_of_classes_and_bands_by_hand() -> None:
    # level 1/4: 3 images are enough. many: a (4 images); few: b (3), c (2), d (2); medium: e (1)
    counts = torch.tensor([200, 5, 4, 3, 50])
    predicted = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4])
    sure = torch.tensor([10.0, 11, 12, 13, 1, 2, 3, 5, 6, 7, 8, 20])
    given = {"confidence": sure, "predicted": predicted, "class_counts": counts}
    whole = FalseAlarm(level=0.25)(confidence=sure)
    assert whole == pytest.approx(3.5)  # F_3 = 3/13, F_4 = 4/13: 3 + (3.25 - 3) * (5 - 3)
    a, b = 10.25, 1.0  # F of four is i / 5: 10 + (1.25 - 1); of three i / 4: the first
    rest = 5.25  # c and d together: 5, 6, 7, 8
    found = FalseAlarm(level=0.25).by_class(**given)
    assert found is not None
    assert found.tolist() == pytest.approx([a, b, rest, rest, whole])
    few = 2.0  # b, c and d: 1, 2, 3, 5, 6, 7, 8; F_2 = 2/8
    bands = FalseAlarm(level=0.25, offsets="bands").by_class(**given)
    assert bands is not None
    assert bands.tolist() == pytest.approx([a, few, few, few, whole])
    assert FalseAlarm(level=0.25, offsets="none").by_class(**given) is None
