"""The normaliser: a power series, scipy, and what it integrates to."""

import math

import pytest
import torch
from scipy.special import ive

from tests.helpers.oracles.contrastive import log_bessel
from trainables.functional.von_mises_fisher import log_normalizer

DIMENSIONS = [1, 2, 3, 16, 31, 64, 82, 83, 84, 128, 512]


def value_and_slope(x: float, dimension: int) -> tuple[float, float]:
    """Return the value at ``k = x`` and its derivative in ``k^2``."""
    squared = torch.tensor(x, dtype=torch.float64).square().requires_grad_()
    value = log_normalizer(squared, dimension=dimension)
    (slope,) = torch.autograd.grad(value, squared)
    return value.item(), slope.item()


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("x", [1e-6, 0.1, 1.0, 7.0, 40.0, 300.0, 2000.0])
def test_it_equals_the_power_series(dimension: int, x: float) -> None:
    order = dimension / 2 - 1
    value, slope = value_and_slope(x, dimension)
    wanted = log_bessel(order, x)
    assert value == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    ratio = math.exp(log_bessel(order + 1, x) - wanted)  # I_{v+1} / (k I_v)
    assert slope == pytest.approx(ratio / 2, rel=1e-9)


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("x", [1e4, 1e5, 1.1e5])
def test_it_equals_scipy_where_the_series_is_long(dimension: int, x: float) -> None:
    order = dimension / 2 - 1
    value, slope = value_and_slope(x, dimension)
    assert value == pytest.approx(math.log(ive(order, x)) + x - order * math.log(x), rel=1e-12)
    assert slope == pytest.approx(ive(order + 1, x) / ive(order, x) / (2 * x), rel=1e-9)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_it_is_smooth_at_zero(dimension: int) -> None:
    order = dimension / 2 - 1
    value, slope = value_and_slope(0.0, dimension)
    assert value == pytest.approx(-order * math.log(2) - math.lgamma(order + 1), rel=1e-12)
    assert slope == pytest.approx(1 / (4 * (order + 1)), rel=1e-10)


def test_it_is_the_mean_over_the_sphere() -> None:
    """The mean of ``exp(k z_1)`` over the unit sphere in 6 dimensions, by quadrature."""
    k, dimension = 3.0, 6
    cosine = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    weight = (1 - cosine.square()).pow((dimension - 3) / 2)
    mean = torch.trapezoid((k * cosine).exp() * weight, cosine) / torch.trapezoid(weight, cosine)
    found = log_normalizer(torch.tensor([k**2, 0.0]), dimension=dimension)
    assert (found[0] - found[1]).item() == pytest.approx(mean.log().item(), rel=1e-8)


def test_gradient_has_the_type_of_the_input() -> None:
    squared = torch.tensor([4.0, 9.0], requires_grad=True)
    value = log_normalizer(squared, dimension=8)
    value.sum().backward()
    assert value.dtype == torch.float64
    assert squared.grad is not None
    assert squared.grad.dtype == torch.float32
