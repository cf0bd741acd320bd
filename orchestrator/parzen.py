"""Parzen estimators: densities over joint parameters, made of what was tried before.

They are those of Optuna's `TPESampler`, in a form in which a draw costs a few array operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.special import log_ndtr, ndtr, ndtri_exp

Array = NDArray[np.float64]

NARROWEST = 100  # a kernel is never narrower than this part of the range
LOG_SQRT_TAU = 0.5 * math.log(2 * math.pi)
FAR_TAIL = -30.0  # beyond it probabilities are kept as logarithms: they would become 0


class Axes:
    """Parameters that are drawn together: which are listed, which are numbers, and their ranges.

    Args:
        distributions: Optuna's distributions, none with a single value.

    Attributes:
        listed: Places of categorical parameters; ``sizes`` has their numbers of choices.
        numbers: Places of numbers.
        low: Lower end of each number's kernels, ``[number, 1]``: half a step below the range, and
            the logarithm for logarithmic ones; ``high`` is the upper end.
        key: Equal for axes that are equal.
    """

    def __init__(self, distributions: Iterable[BaseDistribution]) -> None:
        self.listed: list[int] = []
        self.numbers: list[int] = []
        sizes: list[list[int]] = []
        ranges: list[tuple[float, float, float]] = []
        logs: list[bool] = []
        for place, one in enumerate(distributions):
            if isinstance(one, CategoricalDistribution):
                self.listed.append(place)
                sizes.append([len(one.choices)])
            elif isinstance(one, FloatDistribution | IntDistribution):
                self.numbers.append(place)
                ranges.append((one.low, one.high, one.step or 0.0))
                logs.append(one.log)
        self.count = len(self.listed) + len(self.numbers)
        self.sizes = np.array(sizes, dtype=float)
        self.key = (self.listed, sizes, ranges, logs)
        if self.numbers:
            self._measure(np.array(ranges, dtype=float), logs)

    def _measure(self, ranges: Array, logs: Sequence[bool]) -> None:
        """Set what belongs to numbers."""
        self.first, self.last, self.step = ranges.T[..., None]
        self.log = [row for row, log in enumerate(logs) if log]
        self.stepped = np.flatnonzero(self.step).tolist()
        self.smooth = np.flatnonzero(self.step == 0).tolist()
        half = self.step / 2
        self.low, self.high = self.scaled(self.first - half), self.scaled(self.last + half)
        self.length, self.middle = self.high - self.low, (self.low + self.high) / 2
        self.rows = np.arange(len(ranges))[:, None]

    def scaled(self, values: Array) -> Array:
        """Return numbers ``[number, any]`` with logarithms where the range is logarithmic."""
        if self.log:
            values = values.copy()
            values[self.log] = np.log(values[self.log])
        return values

    def unscaled(self, values: Array) -> Array:
        """Undo `scaled`, go to the nearest step, and stay within the range."""
        if self.log:
            values[self.log] = np.exp(values[self.log])
        if self.stepped:
            first, step = self.first[self.stepped], self.step[self.stepped]
            values[self.stepped] = first + np.round((values[self.stepped] - first) / step) * step
        return np.clip(values, self.first, self.last)


class ParzenEstimator:
    r"""Mixture of product kernels, one around each observation, and one as wide as the space.

    ``p(x) = \sum_k w_k \prod_i K_{ki}(x_i)`` over the kernels ``k`` of ``n`` observations and the
    prior, which has weight 1 before the weights are made to sum to 1.

    A number's kernel is a normal density around the observation, truncated to the range; numbers
    with steps, whole ones too, have the mass of their cell. Its width is the longer way to a
    neighbouring observation or to the end of the range (the outermost ones look inwards only), at
    most ``R`` and at least ``R / min(100, n + 2)`` for a range of length ``R``. The prior stands in
    the middle with width ``R``. A listed value's kernel has ``1 / (n + 1)`` on every choice and 1
    more on the observed one, divided by their sum; the prior is uniform.

    Args:
        axes: What is drawn together.
        observed: Optuna's internal numbers of the observations, ``[n, parameter]``.
        weights: Weight of each observation, ``[n]``.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"; Falkner et al.
    2018 (arXiv 1807.01774) for product kernels; Watanabe 2023 (arXiv 2304.11127) for the widths.
    Reference code: optuna 5.0, ``optuna/samplers/_tpe/parzen_estimator.py``.

    Example:
        >>> from optuna.distributions import FloatDistribution
        >>> axes = Axes([FloatDistribution(0.0, 1.0)])
        >>> estimator = ParzenEstimator(axes, np.array([[0.2], [0.3]]), np.ones(2))
        >>> likely, unlikely = estimator.log_pdf(np.array([[0.25], [0.9]]))
        >>> bool(likely > unlikely)
        True
    """

    def __init__(self, axes: Axes, observed: Array, weights: Array) -> None:
        self._axes = axes
        self._weights = np.append(weights, 1.0)
        self._weights /= self._weights.sum()
        self._log_constant = np.log(self._weights)  # of each kernel, whatever x is
        if axes.listed:
            self._list(observed[:, axes.listed].T)
        if axes.numbers:
            self._measure(axes.scaled(observed[:, axes.numbers].T))

    def _list(self, observed: Array) -> None:
        """Set kernels of categorical parameters; the last, the prior, has no favourite."""
        sizes = self._axes.sizes
        parameters, count = observed.shape
        shape = (parameters, count + 1)
        self._choice, self._more = np.zeros(shape), np.zeros(shape)
        self._other = np.empty(shape)
        self._choice[:, :-1] = observed
        self._other[:, :-1] = 1 / (sizes + count + 1)
        self._more[:, :-1] = (count + 1) / (sizes + count + 1)  # of the observed choice
        self._other[:, -1:] = 1 / sizes
        self._log_constant += np.log(self._other).sum(0)
        self._log_more = np.log1p(self._more / self._other)

    def _measure(self, observed: Array) -> None:
        """Set kernels of numbers."""
        axes = self._axes
        parameters, count = observed.shape
        order = observed.argsort(axis=1)
        padded = np.empty((parameters, count + 2))
        padded[:, :1], padded[:, -1:] = axes.low, axes.high
        padded[:, 1:-1] = observed[axes.rows, order]
        gaps = padded[:, 1:] - padded[:, :-1]
        widths = np.maximum(gaps[:, :-1], gaps[:, 1:])
        if count > 1:
            widths[:, 0], widths[:, -1] = gaps[:, 1], gaps[:, -2]
        narrowest = axes.length / min(NARROWEST, count + 2)
        self._mu, self._sigma = np.empty((2, parameters, count + 1))
        self._mu[:, :-1], self._mu[:, -1:] = observed, axes.middle
        self._sigma[axes.rows, order] = np.minimum(np.maximum(widths, narrowest), axes.length)
        self._sigma[:, -1:] = axes.length
        self._from = (axes.low - self._mu) / self._sigma
        self._to = (axes.high - self._mu) / self._sigma
        self._log_mass = log_mass(self._from, self._to)
        self._log_constant -= self._log_mass.sum(0)
        if axes.smooth:
            self._log_constant -= (np.log(self._sigma[axes.smooth]) + LOG_SQRT_TAU).sum(0)

    def sample(self, rng: np.random.RandomState, size: int) -> Array:
        """Draw points ``[size, parameter]``."""
        share = self._weights.cumsum()
        kernels = (share / share[-1]).searchsorted(rng.random_sample(size), side="right")
        points = np.empty((size, self._axes.count))
        if self._axes.listed:
            uniform = rng.random_sample((len(self._axes.listed), size))
            points[:, self._axes.listed] = self._choices(kernels, uniform).T
        if self._axes.numbers:
            uniform = rng.random_sample((len(self._axes.numbers), size))
            points[:, self._axes.numbers] = self._values(kernels, uniform).T
        return points

    def _choices(self, kernels: NDArray[np.intp], uniform: Array) -> Array:
        """Invert the distribution function of categorical parameters."""
        choice, other = self._choice[:, kernels], self._other[:, kernels]
        before = choice * other
        after = before + other + self._more[:, kernels]
        drawn = np.where(
            uniform < before,
            np.floor(uniform / other),
            np.where(uniform < after, choice, choice + 1 + np.floor((uniform - after) / other)),
        )
        return np.asarray(np.minimum(drawn, self._axes.sizes - 1))

    def _values(self, kernels: NDArray[np.intp], uniform: Array) -> Array:
        """Invert the distribution function of numbers, from the tail that keeps more digits."""
        start, end = self._from[:, kernels], self._to[:, kernels]
        right = start >= 0
        tail = log_ndtr(np.where(right, -end, start))
        with np.errstate(divide="ignore"):  # a draw of exactly 0 is the end of the range
            part = np.log(np.where(right, 1 - uniform, uniform)) + self._log_mass[:, kernels]
        z = ndtri_exp(np.logaddexp(tail, part))
        z = np.where(right, -z, z)
        return self._axes.unscaled(z * self._sigma[:, kernels] + self._mu[:, kernels])

    def log_pdf(self, points: Array) -> Array:
        """Return the logarithm of the density at points ``[size, parameter]`` within the ranges."""
        axes = self._axes
        total = np.tile(self._log_constant, (len(points), 1))
        for row, place in enumerate(axes.listed):
            total += (points[:, place, None] == self._choice[row]) * self._log_more[row]
        if axes.numbers:
            self._weigh(total, points[:, axes.numbers].T)
        peak = total.max(axis=1, keepdims=True)
        return np.asarray(np.log(np.exp(total - peak).sum(axis=1)) + peak[:, 0])

    def _weigh(self, total: Array, values: Array) -> None:
        """Add each kernel's part for ``[number, size]`` values to ``[size, kernel]`` totals."""
        scaled = self._axes.scaled(values)
        for row in self._axes.smooth:
            z = (scaled[row, :, None] - self._mu[row]) / self._sigma[row]
            z *= z
            z *= 0.5
            total -= z
        for row in self._axes.stepped:
            total += self._log_cells(row, values[row])

    def _log_cells(self, row: int, values: Array) -> Array:
        """Return each kernel's mass within half a step of a number's values."""
        half = self._axes.step[row, 0] / 2
        found, again = np.unique(values, return_inverse=True)
        ends = np.stack([found - half, found + half])
        if row in self._axes.log:
            ends = np.log(ends)
        # few numbers with steps differ: each pair of centre and width is worked out once
        kernels, columns = np.unique(self._mu[row] + 1j * self._sigma[row], return_inverse=True)
        start, end = (ends[..., None] - kernels.real) / kernels.imag
        return log_mass(start, end)[again[:, None], columns]


def log_mass(start: Array, end: Array) -> Array:
    """Return ``log(Phi(end) - Phi(start))`` of the standard normal, accurate in both tails.

    Example:
        >>> log_mass(np.array([-1.0, 50.0]), np.array([1.0, 51.0])).round(3).tolist()
        [-0.382, -1254.831]
    """
    right = start > 0
    low, high = np.where(right, -end, start), np.where(right, -start, end)
    with np.errstate(divide="ignore"):  # replaced below
        found = np.log(ndtr(high) - ndtr(low))
    far = high < FAR_TAIL
    if far.any():
        upper = log_ndtr(high[far])
        found[far] = upper + np.log1p(-np.exp(log_ndtr(low[far]) - upper))
    return np.asarray(found)
