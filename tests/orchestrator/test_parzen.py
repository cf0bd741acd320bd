"""Densities: Optuna's own as the oracle, and that they are densities."""

import math

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights

from orchestrator.parzen import Array, Axes, ParzenEstimator, log_mass

KINDS: dict[str, BaseDistribution] = {
    "float": FloatDistribution(-2.0, 3.0),
    "shifted": FloatDistribution(1000.0, 1000.5),
    "log": FloatDistribution(1e-5, 10.0, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.05),
    "whole": IntDistribution(1, 9),
    "thirds": IntDistribution(2, 20, step=3),
    "log_whole": IntDistribution(1, 300, log=True),
    "two": CategoricalDistribution([True, False]),
    "many": CategoricalDistribution([f"method_{number}" for number in range(30)]),
}
PARAMETERS = _ParzenEstimatorParameters(1.0, True, False, default_weights, True)
COUNTS = (0, 1, 2, 3, 9, 24, 25, 60, 300)


def draw(kind: BaseDistribution, count: int, gen: np.random.Generator) -> Array:
    """Return random observations as Optuna's internal numbers, with ties and both ends."""
    if isinstance(kind, CategoricalDistribution):
        return gen.integers(len(kind.choices), size=count).astype(float)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    low, high = float(kind.low), float(kind.high)
    if kind.step and not kind.log:
        steps = gen.integers(round((high - low) / kind.step) + 1, size=count)
        return np.asarray(low + kind.step * steps, dtype=np.float64)
    values = gen.uniform(low, high, count)
    if kind.log:
        values = np.exp(gen.uniform(math.log(low), math.log(high), count))
    values = np.round(values) if isinstance(kind, IntDistribution) else values
    values[gen.random(count) < 0.1], values[gen.random(count) < 0.1] = low, high
    values[gen.random(count) < 0.2] = values[count // 2] if count else low
    return values


def both(
    space: dict[str, BaseDistribution], observed: dict[str, Array], weights: Array
) -> tuple[_ParzenEstimator, ParzenEstimator]:
    rows = np.array(list(observed.values())).T.reshape(len(weights), len(space))
    theirs = _ParzenEstimator(observed, space, PARAMETERS, weights.copy())
    return theirs, ParzenEstimator(Axes(space.values()), rows, weights)


def compare(theirs: _ParzenEstimator, ours: ParzenEstimator, seed: int) -> None:
    """Draw from both with the same random numbers, and compare draws and densities."""
    expected = theirs.sample(np.random.RandomState(seed), 24)
    drawn = ours.sample(np.random.RandomState(seed), 24)
    np.testing.assert_allclose(drawn, np.array(list(expected.values())).T, rtol=1e-9, atol=1e-12)
    log_pdf = theirs.log_pdf({name: drawn[:, i] for i, name in enumerate(expected)})
    np.testing.assert_allclose(ours.log_pdf(drawn), log_pdf, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", COUNTS)
def test_each_kind_is_optunas(kind: str, count: int) -> None:
    space = {kind: KINDS[kind]}
    for seed in range(3):
        observed = {kind: draw(KINDS[kind], count, np.random.default_rng(seed))}
        compare(*both(space, observed, default_weights(count)), seed)


@pytest.mark.parametrize("seed", range(40))
def test_joint_spaces_are_optunas(seed: int) -> None:
    gen = np.random.default_rng(seed)
    names = gen.permutation(list(KINDS))[: gen.integers(2, len(KINDS) + 1)].tolist()
    space, count = {name: KINDS[name] for name in names}, int(gen.choice(COUNTS))
    observed = {name: draw(KINDS[name], count, gen) for name in names}
    weights = default_weights(count) if seed % 2 else np.ones(count)
    compare(*both(space, observed, weights), seed)


@pytest.mark.parametrize("kind", [k for k, d in KINDS.items() if isinstance(d, FloatDistribution)])
def test_observations_outside_a_range_that_has_shrunk(kind: str) -> None:
    whole = KINDS[kind]
    assert isinstance(whole, FloatDistribution)
    narrow = FloatDistribution(
        whole.low, whole.low + (whole.high - whole.low) / 2, log=whole.log, step=whole.step
    )
    observed = {kind: draw(whole, 60, np.random.default_rng(0))}
    assert (observed[kind] > narrow.high).any()
    theirs, ours = both({kind: narrow}, observed, default_weights(60))
    points = draw(narrow, 50, np.random.default_rng(1))
    expected = theirs.log_pdf({kind: points})
    np.testing.assert_allclose(ours.log_pdf(points[:, None]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_has_mass_one(kind: str) -> None:
    one = KINDS[kind]
    axes = Axes([one])
    estimator = ParzenEstimator(axes, draw(one, 12, np.random.default_rng(0))[:, None], np.ones(12))
    if isinstance(one, CategoricalDistribution):
        mass = np.exp(estimator.log_pdf(np.arange(len(one.choices), dtype=float)[:, None])).sum()
    elif isinstance(one, FloatDistribution | IntDistribution) and one.step:
        cells = np.arange(one.low, one.high + one.step / 2, one.step, dtype=float)
        mass = np.exp(estimator.log_pdf(cells[:, None])).sum()
    else:
        ends = np.linspace(axes.low.item(), axes.high.item(), 200_001)
        values = axes.unscaled((ends[None, 1:] + ends[None, :-1]) / 2).T
        mass = np.exp(estimator.log_pdf(values)).mean() * axes.length.item()
    assert mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density(kind: str) -> None:
    one = KINDS[kind]
    estimator = ParzenEstimator(
        Axes([one]), draw(one, 6, np.random.default_rng(3))[:, None], np.ones(6)
    )
    drawn = estimator.sample(np.random.RandomState(0), 20_000)
    # E[1 / p] is the size of the space, and an even draw weighs p by it
    inverse = np.exp(-estimator.log_pdf(drawn))
    axes = Axes([one])
    if isinstance(one, CategoricalDistribution):
        size = float(len(one.choices))
    elif isinstance(one, FloatDistribution | IntDistribution) and one.step:
        size = (one.high - one.low) / one.step + 1
    else:
        size = axes.length.item()
    error = inverse.std() / math.sqrt(len(inverse))
    assert inverse.mean() == pytest.approx(size, abs=5 * error)


def test_masses_far_out_keep_their_digits() -> None:
    ends = np.array([[-60.0, -59.0], [59.0, 60.0], [-1e-3, 1e-3], [-40.0, 40.0], [7.0, 9.0]])
    left, right, narrow, all_of_it, tail = log_mass(ends[:, 0], ends[:, 1])
    assert left == right == pytest.approx(-1740.5 - math.log(59 * math.sqrt(2 * math.pi)), abs=1e-2)
    assert narrow == pytest.approx(math.log(math.erf(1e-3 / math.sqrt(2))), rel=1e-12)
    assert all_of_it == 0.0
    exact = 0.5 * (math.erfc(7 / math.sqrt(2)) - math.erfc(9 / math.sqrt(2)))
    assert tail == pytest.approx(math.log(exact), rel=1e-12)
