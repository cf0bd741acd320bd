"""Gates: what passes, what is refused, and with which words."""

from __future__ import annotations

import math

import pytest

from tests.helpers.vectors import variants
from trainables.functional.promotion_rules import band_no_worse, no_worse
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.gates import Gate
from trainables.methods.gates.calibration import Calibration
from trainables.methods.gates.few import Few
from trainables.methods.gates.forgetting import Forgetting
from trainables.methods.gates.latency import Latency
from trainables.methods.gates.many import Many
from trainables.methods.gates.medium import Medium
from trainables.methods.gates.novelty import Novelty
from trainables.methods.gates.overall import Overall
from trainables.methods.gates.provenance import Provenance

METHODS = list(variants(Gate))
HIGHER = [Overall(), Many(), Medium(), Few(), Novelty()]
LOWER = [Calibration(), Forgetting()]
COMPARING = [*HIGHER, *LOWER, Latency()]
GOOD = {
    "test/accuracy/open": 0.80,
    "test/accuracy/many": 0.95,
    "test/accuracy/medium": 0.80,
    "test/accuracy/few": 0.60,
    "test/novelty/auroc": 0.90,
    "test/calibration/ece": 0.30,
    "test/forgetting": 0.30,
    "test/accuracy/balanced": 0.80,
    "evaluate/latency/ms": 4.0,
    "evaluate/oracle": 0.0,
    "evaluate/leaked_pretraining": 0.0,
}


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("champion", [None, GOOD, {}], ids=["none", "equal", "empty"])
@pytest.mark.parametrize("gate", METHODS)
def test_a_good_challenger_passes_with_a_reason(
    gate: Gate, champion: dict[str, float] | None
) -> None:
    passed, reason = gate(challenger=GOOD, champion=champion)
    assert passed is True
    assert reason
    assert "\n" not in reason


@pytest.mark.parametrize("gate", METHODS)
def test_settings_survive_a_round_trip(gate: Gate) -> None:
    assert Gate.parse(gate.dump()) == gate


# --- comparing gates ------------------------------------------------------------------------------


@pytest.mark.parametrize("champion", [None, GOOD], ids=["none", "some"])
@pytest.mark.parametrize("gate", COMPARING, ids=lambda gate: gate.name)
def test_what_was_not_measured_is_refused(gate: Gate, champion: dict[str, float] | None) -> None:
    bands = [g.metric for g in (Many(), Medium(), Few())]
    missing = {name: value for name, value in GOOD.items() if name not in (gate.metric, *bands)}
    passed, reason = gate(challenger=missing, champion=champion)
    if isinstance(gate, Novelty) and champion is None:
        assert (passed, reason[:10]) == (True, "not asked:")
    else:
        assert (passed, reason) == (False, f"{gate.metric} was not measured for the challenger")
    for value in (math.nan, math.inf):
        passed, reason = gate(challenger={**GOOD, gate.metric: value}, champion=champion)
        assert not passed
        assert gate.metric in reason


@pytest.mark.parametrize("gate", [Many(), Medium(), Few()], ids=lambda gate: gate.name)
def test_an_empty_band_has_nothing_to_lose(gate: Gate) -> None:
    empty = {name: value for name, value in GOOD.items() if name != gate.metric}
    said = (True, f"{gate.metric}: no class is in this band")
    assert gate(challenger=empty, champion=None) == said
    assert gate(challenger=empty, champion=empty) == said
    assert not gate(challenger=empty, champion=GOOD)[0]  # the champion has the band


@pytest.mark.parametrize("gate", [*HIGHER, *LOWER], ids=lambda gate: gate.name)
def test_the_allowed_regression_is_inclusive_and_in_points(gate: Gate) -> None:
    allowed, sign = gate.allowed_regression / 100, -1 if gate in LOWER else 1
    for loss, passes in ((allowed, True), (allowed + 1e-6, False), (-0.2, True)):
        challenger = {**GOOD, gate.metric: GOOD[gate.metric] - sign * loss}
        passed, reason = gate(challenger=challenger, champion=GOOD)
        assert passed is passes
        assert f"against {GOOD[gate.metric]:.4f}" in reason


@pytest.mark.parametrize("gate", COMPARING, ids=lambda gate: gate.name)
def test_a_loss_in_another_metric_is_not_this_gates_business(gate: Gate) -> None:
    bad = {name: 9.0 if gate.metric == name else 0.1 for name in GOOD}
    challenger = bad | {gate.metric: GOOD[gate.metric]}
    assert gate(challenger=challenger, champion=GOOD)[0]


@pytest.mark.parametrize("gate", [*HIGHER, *LOWER], ids=lambda gate: gate.name)
def test_overlapping_intervals_excuse_a_loss_up_to_a_limit(gate: Gate) -> None:
    name, sign = gate.metric, -1 if gate in LOWER else 1
    champion = {**GOOD, f"{name}/low": GOOD[name] - 0.10, f"{name}/high": GOOD[name] + 0.10}

    def decision(loss: float, width: float) -> bool:
        mean = GOOD[name] - sign * loss
        low, high = mean - width, mean + width
        challenger = {**GOOD, name: mean, f"{name}/low": low, f"{name}/high": high}
        return bool(gate(challenger=challenger, champion=champion)[0])

    excused = gate.excused_regression / 100
    assert decision(excused, 0.05)
    assert not decision(excused + 0.001, 0.05)
    champion |= {f"{name}/low": GOOD[name] - 0.001, f"{name}/high": GOOD[name] + 0.001}
    assert not decision(excused, 0.001)  # the intervals are apart
    assert decision(excused, 0.05)


def with_seeds(metric: str, *values: float) -> dict[str, float]:
    """Return a metric's mean, a narrow interval, and its values on the seeds 0, 1, ..."""
    mean = sum(values) / len(values)
    seeds = {f"{metric}/seed/{n}": value for n, value in enumerate(values)}
    return {metric: mean, f"{metric}/low": mean, f"{metric}/high": mean, **seeds}


def test_common_seeds_are_compared_in_pairs() -> None:
    def judged(mine: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[bool, str]:
        return no_worse("m", with_seeds("m", *mine), with_seeds("m", *theirs), allowed=(0.5, 2.0))

    # differences 0.03, -0.02, 0.02: mean 0.01, half-width 4.303 * 0.02646 / sqrt(3) = 0.0657
    passed, reason = judged((0.70, 0.75, 0.70), (0.73, 0.73, 0.72))
    assert passed
    assert reason.endswith("or 2.00 as it is not certain over 3 common seeds")
    # the same mean loss on every seed is certain, although single values differ more
    passed, reason = judged((0.60, 0.75, 0.90), (0.611, 0.759, 0.91))
    assert not passed
    assert "common seeds" not in reason
    # uncertain, but more than is excused
    assert not judged((0.60, 0.75, 0.70), (0.70, 0.73, 0.72))[0]


def test_pairs_need_two_common_seeds_else_intervals_speak() -> None:
    mine, theirs = with_seeds("m", 0.70), with_seeds("m", 0.71)
    assert not no_worse("m", mine, theirs, allowed=(0.5, 2.0))[0]
    theirs["m/low"] = 0.69
    assert no_worse("m", mine, theirs, allowed=(0.5, 2.0))[1].endswith("the intervals overlap")


def test_a_seed_without_a_number_is_no_pair() -> None:
    """It made the mean of the differences NaN, and any loss one that noise excuses."""
    seeds = {n: 0.80 + 0.001 * n for n in range(3)}
    champion = {"m": 0.80} | {f"m/seed/{n}": v for n, v in seeds.items()}
    challenger = {"m": 0.79} | {f"m/seed/{n}": v - 0.01 for n, v in seeds.items()}
    assert not no_worse("m", challenger, champion, allowed=(0.5, 2.0))[0]  # 1.00 in each pair
    odd = challenger | {"m/seed/2": math.nan}
    assert not no_worse("m", odd, champion, allowed=(0.5, 2.0))[0]


def test_pairs_follow_the_direction() -> None:
    mine, theirs = with_seeds("e", 0.10, 0.06), with_seeds("e", 0.07, 0.07)
    assert no_worse("e", mine, theirs, allowed=(0.5, 2.0), better="lower")[0]
    assert no_worse("e", theirs, mine, allowed=(0.5, 2.0), better="lower")[0]
    certain = with_seeds("e", 0.08, 0.0801)
    assert not no_worse("e", certain, theirs, allowed=(0.5, 2.0), better="lower")[0]


def test_percent_are_of_the_champions_value() -> None:
    def judged(mine: float, theirs: float) -> tuple[bool, str]:
        return no_worse(
            "t", {"t": mine}, {"t": theirs}, allowed=(10.0, 30.0), better="lower", unit="percent"
        )

    assert judged(1.1, 1.0) == (
        True,
        "t 1.1000 against 1.0000: lost 10.00 percent, allowed 10.00",
    )
    assert not judged(1.11, 1.0)[0]
    assert judged(0.0, 0.0)[0]
    assert not judged(0.1, 0.0)[0]


def test_a_band_without_a_stem_is_a_plain_metric() -> None:
    assert not band_no_worse("few", {}, None, allowed=(1.0, 1.0))[0]


def test_an_update_that_helped_sets_no_bar_below_zero() -> None:
    gate = Forgetting()
    name = gate.metric
    assert gate(challenger={name: 0.01}, champion={name: -0.20}) == (
        True,
        f"{name} 0.0100 against 0.0000: lost 1.00 points, allowed 1.00",
    )
    assert not gate(challenger={name: 0.02}, champion={name: -0.20})[0]
    assert gate(challenger={name: -0.1}, champion={name: 0.0})[0]
    assert not gate(challenger={name: math.nan}, champion={name: 0.0})[0]


def test_slower_is_refused_unless_nobody_notices() -> None:
    gate = Latency(negligible=0.5)
    name = gate.metric

    def judged(mine: float, theirs: float) -> tuple[bool, str]:
        return gate(challenger={name: mine}, champion={name: theirs})

    assert judged(4.4, 4.0)[0]
    assert judged(4.5, 4.0) == (
        True,
        f"{name} 4.5000 against 4.0000: lost 12.50 percent, allowed 10.00; "
        "0.5 ms per image are negligible",
    )
    assert not judged(4.6, 4.0)[0]
    overlapping = {name: 5.0, f"{name}/low": 4.0, f"{name}/high": 6.0}
    champion = {name: 4.0, f"{name}/low": 3.9, f"{name}/high": 4.1}
    assert gate(challenger=overlapping, champion=champion)[0]
    assert not gate(challenger={**overlapping, name: 5.3}, champion=champion)[0]


def test_an_interval_on_one_side_alone_excuses_nothing() -> None:
    gate = Overall(allowed_regression=0.0)
    challenger = {gate.metric: 0.79, f"{gate.metric}/low": 0.7, f"{gate.metric}/high": 0.9}
    assert not gate(challenger=challenger, champion=GOOD)[0]


def test_the_metric_is_a_setting() -> None:
    gate = Overall(metric="test/accuracy/medium")
    assert gate(challenger={"test/accuracy/medium": 0.5}, champion=None)[0]
    assert not gate(challenger={"test/accuracy/open": 0.5}, champion=None)[0]


# --- provenance -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flag",
    ["oracle", "evaluate/oracle", "leaked_pretraining", "evaluate/leaked_pretraining"],
)
@pytest.mark.parametrize("value", [1.0, math.nan])
def test_upper_bounds_and_leaked_trunks_are_refused(flag: str, value: float) -> None:
    passed, reason = Provenance()(challenger={**GOOD, flag: value}, champion=None)
    assert not passed
    assert ("upper bound" if "oracle" in flag else "pretrained") in reason


def test_every_reason_is_named() -> None:
    worst = {"oracle": 1.0, "leaked_pretraining": 1.0}
    reason = Provenance()(challenger=worst, champion=None)[1]
    assert "upper bound" in reason
    assert "pretrained" in reason


def test_a_trunk_of_unknown_pretraining_passes_and_is_not_called_clean() -> None:
    gate = Provenance()
    for name in ("unknown_pretraining", "evaluate/unknown_pretraining"):
        passed, reason = gate(challenger={**GOOD, name: 1.0}, champion=None)
        assert passed
        assert "not known" in reason
        assert "no leaked pretraining" not in reason
    assert "not known" not in gate(challenger=GOOD, champion=None)[1]
