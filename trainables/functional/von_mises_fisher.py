"""Log normalizer of the von Mises-Fisher distribution for every dimension and concentration."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from torch import Tensor

LOWEST_ORDER = 40  # from this order on, six terms are exact to nearly float64's rounding error
TERMS = 6


def log_normalizer(squared: Tensor, *, dimension: int) -> Tensor:
    """Return ``log(I_v(k) / k^v)``, ``v = P / 2 - 1``, in float64, with a gradient.

    This is the logarithm of the integral of ``exp(k mu z)`` over unit vectors z in P dimensions, up
    to a constant; a larger k is a more concentrated distribution. I is the modified Bessel function
    of the first kind. The result is finite from ``k = 0``, the uniform distribution, to the largest
    floating point number.

    Args:
        squared: ``k^2`` of any shape, at least 0; the function is smooth in ``k^2`` at 0.
        dimension: P >= 1.

    Source:
        Uniform expansion for large orders, DLMF 10.41.3 and 10.41.9. Lower orders follow by the
        downward recurrence DLMF 10.29.1, which is stable for I.

    Example:
        In three dimensions the value is ``log(sqrt(2 / pi) sinh(k) / k)``.

        >>> squared = torch.tensor([4.0], dtype=torch.float64)
        >>> log_normalizer(squared, dimension=3)
        tensor([0.3694], dtype=torch.float64)
        >>> torch.log(torch.sinh(squared.sqrt()) / squared.sqrt() * (2 / torch.pi) ** 0.5)
        tensor([0.3694], dtype=torch.float64)
    """
    result: Tensor = _LogNormalizer.apply(squared, dimension / 2 - 1)
    return result


class _LogNormalizer(torch.autograd.Function):
    """Value by recurrence, with the derivative ``I_{v+1}(k) / (2 k I_v(k))`` in ``k^2``."""

    @staticmethod
    def forward(ctx: Any, squared: Tensor, order: float) -> Tensor:
        value, ratio = _by_recurrence(squared.double(), order)
        ctx.save_for_backward(ratio)
        ctx.dtype = squared.dtype
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (ratio,) = ctx.saved_tensors
        return (gradients[0] * ratio / 2).to(ctx.dtype), None


def _by_recurrence(squared: Tensor, order: float) -> tuple[Tensor, Tensor]:
    """Return ``log(I_v(k) / k^v)`` and ``I_{v+1}(k) / (k I_v(k))``."""
    steps = max(0, math.ceil(LOWEST_ORDER - order))
    value = _expansion(squared, order + steps)
    ratio = (_expansion(squared, order + steps + 1) - value).exp()
    for step in range(steps, 0, -1):
        inverse = 2 * (order + step) + squared * ratio
        value, ratio = value + inverse.log(), 1 / inverse
    return value, ratio


def _expansion(squared: Tensor, order: float) -> Tensor:
    """Return ``log(I_v(k) / k^v)`` for a large order."""
    root = (1 + squared / order**2).sqrt()
    leading = order * (root - (1 + root).log() - math.log(order))
    series = torch.zeros_like(root)
    for coefficient in reversed(_coefficients(order)):
        series = series / root + coefficient
    return leading - 0.5 * (root.log() + math.log(2 * math.pi * order)) + series.log()


@cache
def _coefficients(order: float) -> tuple[float, ...]:
    """Return the coefficients of ``sum_k U_k(t) / v^k`` in powers of t, the constant first."""
    total = [0.0] * (3 * TERMS + 1)
    polynomial = [Fraction(1)]
    for term in range(TERMS + 1):
        for power, coefficient in enumerate(polynomial):
            total[power] += float(coefficient) / order**term
        polynomial = _next_polynomial(polynomial)
    return tuple(total)


def _next_polynomial(polynomial: list[Fraction]) -> list[Fraction]:
    """Return ``U_{k+1} = t^2 (1 - t^2) U_k' / 2 + int_0^t (1 - 5 s^2) U_k(s) ds / 8``."""
    result = [Fraction(0)] * (len(polynomial) + 3)
    for power, coefficient in enumerate(polynomial):
        result[power + 1] += coefficient * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
        result[power + 3] -= coefficient * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
    return result
