"""A ridge regression on all samples, from which all samples of some classes are taken away."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.ridge import Spectrum, kept_coordinates, spectrum
from trainables.closed_form.statistics import MOST_KEPT, Samples, Statistics

# time of a decomposition and of turning one sample, in products of a row with a matrix [M, M]
DECOMPOSITION = 7


class Left(NamedTuple):
    """What is left: the spectrum, and the coordinates ``[N, M]`` of the samples that stay."""

    parts: Spectrum
    coordinates: Tensor


class RidgeOfAll:
    """A decomposition of all samples, made once, that serves whatever classes leave.

    Taking K rows away changes the inverse by a matrix of rank K. For few rows that is cheaper than
    a decomposition of what is left, and the samples are turned into the basis once for all.

    Args:
        data: All samples.
        kept: Their statistics.
        intercept: See `spectrum`.
    """

    def __init__(self, data: Samples, kept: Statistics, *, intercept: bool) -> None:
        self.data, self.kept, self.intercept = data, kept, intercept

    @cached_property
    def parts(self) -> Spectrum:
        """The decomposition of all samples."""
        return spectrum(self.kept, intercept=self.intercept)

    @cached_property
    def coordinates(self) -> Tensor:
        """The coordinates of all samples ``[N, M]``."""
        found = kept_coordinates(self.parts, self.data)
        assert found is not None
        return found

    def pays(self, leaving: int, levels: int) -> bool:
        """Say whether taking away so many samples costs less than another decomposition.

        Args:
            leaving: Samples that leave.
            levels: Regularizers that are tried.
        """
        number, width = len(self.data.labels), self.data.width
        if number * width > MOST_KEPT:
            return False
        anew = number * width**2 + DECOMPOSITION * width**3
        return levels * (leaving + 1) * number * width < anew

    def without(
        self, leaving: Tensor, staying: Tensor, left: Statistics, multiples: Sequence[float]
    ) -> Left | None:
        """Return what is left without some classes, or ``None`` where it is nearly singular.

        Args:
            leaving: All samples of the classes that leave ``[K]``.
            staying: The others ``[N - K]``.
            left: Statistics of the others, but for their Gram matrix, which is not read.
            multiples: Regularizers that will be asked for, in units of the mean eigenvalue.
        """
        whole = self.parts
        weights = self.kept.class_weights[self.data.labels[leaving]] * self.data.weights[leaving]
        rows = self.coordinates[leaving]
        lost = rows * weights.sqrt()[:, None]
        weighted = left.class_weights * left.counts
        total = weighted.sum()
        mean, shift = whole.mean, torch.zeros_like(whole.values)
        if self.intercept:
            # the mean of what stays, as seen from the mean of all
            shift = -(weights @ rows) / total
            lost = torch.cat([lost, total.sqrt() * shift[None]])
            mean = left.class_weights @ left.sums / total
        products = left.class_weights[:, None] * left.sums - torch.outer(weighted, mean)
        parts = whole._replace(
            mean=mean,
            target=weighted / total * self.intercept,
            products=whole.basis.T @ products.T,
            constant=self.intercept / float(total),
            lost=lost,
        )
        if not _well_conditioned(parts, min(multiples) * parts.unit):
            return None
        return Left(parts, self.coordinates[staying].sub_(shift))


def _well_conditioned(parts: Spectrum, regularizer: float) -> bool:
    """Say whether `Spectrum.changes` has digits left at the smallest regularizer."""
    try:
        parts.changes([regularizer])
    except ArithmeticError:
        return False
    return True
