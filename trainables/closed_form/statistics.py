"""Samples with weights and groups, and the sums over them that a ridge regression needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.projection import project

BLOCK = 2**24  # float64 numbers in a block of work: 128 MB
MOST_KEPT = 2**26  # float64 numbers that are kept rather than computed again: 512 MB


class Samples(NamedTuple):
    """Features with labels, and what a fit must know about each sample.

    Args:
        features: ``[N, D]``, of any floating type.
        labels: ``[N]`` int64.
        weights: Weight of each sample ``[N]``, float64, >= 0.
        groups: ``[N]`` int64; samples of one group are left out together.
        projection: Matrix ``[D, M]`` of random features, or ``None`` for the features themselves.
    """

    features: Tensor
    labels: Tensor
    weights: Tensor
    groups: Tensor
    projection: Tensor | None = None

    @property
    def width(self) -> int:
        """Number of inputs of the regression: M with random features, otherwise D."""
        matrix = self.features if self.projection is None else self.projection
        return matrix.shape[1]

    def part(self, rows: Tensor | slice) -> Samples:
        """Return some of the samples."""
        return Samples(
            self.features[rows],
            self.labels[rows],
            self.weights[rows],
            self.groups[rows],
            self.projection,
        )

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Return the regression's inputs for some rows, float64 ``[n, width]``."""
        return project(self.features[rows].double(), self.projection)

    def computed(self) -> Samples:
        """Return the same samples with their random features in place of features, if they fit.

        Example:
            >>> data = samples(torch.ones(2, 1), torch.tensor([0, 1]), projection=torch.ones(1, 3))
            >>> data.computed().projection is None, data.computed().features.tolist()
            (True, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
        """
        if self.projection is None or len(self.labels) * self.width > MOST_KEPT:
            return self
        return self._replace(features=self.inputs(slice(None)), projection=None)

    def blocks(self, more: int = 0) -> Iterator[slice]:
        """Yield slices of rows whose inputs, and ``more`` numbers a row, fit into a block."""
        size = max(1, BLOCK // max(self.width + more, 1))
        for start in range(0, len(self.labels), size):
            yield slice(start, start + size)


def samples(
    features: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    projection: Tensor | None = None,
) -> Samples:
    """Return samples; by default each has weight 1 and is a group of its own.

    Example:
        >>> samples(torch.zeros(2, 3), torch.tensor([0, 1])).groups
        tensor([0, 1])
    """
    if weights is None:
        weights = torch.ones(len(labels), dtype=torch.float64, device=features.device)
    if groups is None:
        groups = torch.arange(len(labels), device=features.device)
    return Samples(features, labels, weights.double(), groups, projection)


class Statistics(NamedTuple):
    """Sums over samples, float64, to which samples can be added and from which they can be removed.

    Each sample i has a weight s_i and its class a weight w_c, which is part of the Gram matrix.

    Args:
        counts: Sum of s_i in each class ``[C]``.
        sums: Sum of ``s_i x_i`` in each class ``[C, M]``.
        class_weights: w_c ``[C]``.
        gram: Sum of ``s_i w_{y_i} x_i x_i^T`` over all samples ``[M, M]``.

    Example:
        >>> kept = no_samples(torch.ones(2).double(), width=1)
        >>> both = samples(torch.tensor([[2.0], [3.0]]), torch.tensor([0, 1]))
        >>> kept.add(both)
        >>> kept.remove(samples(torch.tensor([[2.0]]), torch.tensor([0])))
        >>> kept.gram.item(), kept.counts.tolist()
        (9.0, [0.0, 1.0])
    """

    counts: Tensor
    sums: Tensor
    class_weights: Tensor
    gram: Tensor

    def add(self, added: Samples) -> None:
        """Add samples, in blocks of bounded memory.

        Raises:
            ArithmeticError: A feature is NaN or infinite.
        """
        self._accumulate(added, 1.0)

    def remove(self, removed: Samples) -> None:
        """Remove samples that were added before."""
        self._accumulate(removed, -1.0)

    def merge(self, other: Statistics) -> None:
        """Add the samples of other statistics, of another stream or another worker.

        Raises:
            ValueError: The class weights differ.
        """
        if not torch.equal(self.class_weights, other.class_weights):
            raise ValueError("statistics: only those with equal class weights can be merged")
        self.counts.add_(other.counts)
        self.sums.add_(other.sums)
        self.gram.add_(other.gram)

    def grown(self, num_new: int) -> Statistics:
        """Return statistics with K more classes of weight 1, without samples.

        The Gram matrix is shared, and the sums of the known classes are copied.
        """
        return Statistics(
            counts=torch.cat([self.counts, self.counts.new_zeros(num_new)]),
            sums=torch.cat([self.sums, self.sums.new_zeros(num_new, self.sums.shape[1])]),
            class_weights=torch.cat([self.class_weights, self.class_weights.new_ones(num_new)]),
            gram=self.gram,
        )

    def without(self, leaving: Samples, classes: Tensor) -> Statistics:
        """Return the statistics of the classes that stay, when all samples of the others leave.

        Args:
            leaving: All samples of the other classes.
            classes: The classes that stay ``[K]``, in the order that the result has them.

        Example:
            >>> kept = no_samples(torch.ones(2).double(), width=1)
            >>> data = samples(torch.tensor([[2.0], [3.0]]), torch.tensor([0, 1]))
            >>> kept.add(data)
            >>> left = kept.without(data.part(slice(1)), torch.tensor([1]))
            >>> left.gram.item(), left.counts.tolist(), kept.gram.item()
            (9.0, [1.0], 13.0)
        """
        left = Statistics(*(part.clone() for part in self))
        left.remove(leaving)
        return Statistics(
            left.counts[classes], left.sums[classes], left.class_weights[classes], left.gram
        )

    def reweight(self, class_weights: Tensor, stored: Samples) -> None:
        """Change the class weights; classes of unchanged weight cost nothing.

        Args:
            class_weights: New weights ``[C]``.
            stored: All samples of each class whose weight changes; those of others are not read.
        """
        change = class_weights.to(self.class_weights) - self.class_weights
        rows = (change[stored.labels] != 0).nonzero().flatten()
        moved = stored.part(rows)
        for block in moved.blocks():
            self._add_products(
                moved.inputs(block), moved.weights[block] * change[moved.labels[block]]
            )
        self.class_weights.add_(change)

    def _accumulate(self, changed: Samples, sign: float) -> None:
        for block in changed.blocks():
            inputs, labels = changed.inputs(block), changed.labels[block]
            if not bool(inputs.isfinite().all()):
                raise ArithmeticError(
                    "features of training images are NaN or infinite, because the trunk's training "
                    "diverged; lower classify.training.lr, or choose another backbone"
                )
            weights = sign * changed.weights[block]
            self.counts.index_add_(0, labels, weights)
            self.sums.index_add_(0, labels, weights[:, None] * inputs)
            self._add_products(inputs, weights * self.class_weights[labels])

    def _add_products(self, inputs: Tensor, weights: Tensor) -> None:
        """Add ``sum_i weights_i x_i x_i^T`` to the Gram matrix."""
        self.gram.addmm_((weights[:, None] * inputs).T, inputs)


def no_samples(class_weights: Tensor, *, width: int) -> Statistics:
    """Return the statistics of no samples, for C classes and inputs of a width."""
    weights = class_weights.double().clone()
    return Statistics(
        counts=torch.zeros_like(weights),
        sums=weights.new_zeros(len(weights), width),
        class_weights=weights,
        gram=weights.new_zeros(width, width),
    )
