"""Ridge regression on one-hot labels, with exact answers to samples that were left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from trainables.closed_form.groups import groups_of_one_size
from trainables.closed_form.statistics import MOST_KEPT, Samples, Statistics
from trainables.functional.class_weights import effective_number, filled_counts

Balance = Literal["none", "inverse_frequency", "effective_number", "logit_adjusted"]
BALANCES = get_args(Balance)
BLOCK = 2**21  # float64 numbers in a block of work: 16 MB, so that a cache holds what is read again
SMALLEST_PIVOT = 1e-5  # of the factor of what is left; its square is what is left of a direction


def class_weights(counts: Tensor, balance: Balance, *, beta: float) -> Tensor:
    """Return the weight of each class in the fit, float64 ``[C]``.

    The weight of a class depends on its own count alone, so that new classes leave the statistics
    of the others as they are: ``inverse_frequency`` ``1 / n_c``, ``effective_number``
    ``(1 - beta) / (1 - beta^n_c)``, otherwise 1. An absent class counts as the rarest present one.

    Example:
        >>> class_weights(torch.tensor([4.0, 2.0]), "inverse_frequency", beta=0.0).tolist()
        [0.25, 0.5]
    """
    filled = filled_counts(counts)
    if balance == "inverse_frequency":
        return 1.0 / filled
    if balance == "effective_number":
        return 1.0 / effective_number(filled, beta=beta)
    return torch.ones_like(filled)


class Spectrum(NamedTuple):
    """Statistics of a weighted ridge regression in the eigenbasis of its centered Gram matrix.

    Args:
        values: Eigenvalues ``[M]``, >= 0.
        basis: Eigenvectors ``[M, M]``, one per column.
        mean: Weighted mean of the inputs ``[M]``.
        target: Weighted mean of the targets ``[C]``.
        products: ``sum_i w_i (x_i - mean) t_i^T`` in the basis ``[M, C]``.
        constant: Inverse sum of all weights; 0 without an intercept.
        lost: Rows ``[K, M]`` in the basis, which have left the Gram matrix since it was decomposed:
            it is ``diag(values) - lost^T lost``. ``None``: none have.
    """

    values: Tensor
    basis: Tensor
    mean: Tensor
    target: Tensor
    products: Tensor
    constant: float
    lost: Tensor | None = None

    @property
    def unit(self) -> float:
        """The unit of a regularizer: the mean eigenvalue, 1 if all inputs are equal."""
        total = self.values.sum()
        if self.lost is not None:
            total = total - self.lost.square().sum()
        return max(float(total), 0.0) / len(self.values) or 1.0

    def coordinates(self, inputs: Tensor) -> Tensor:
        """Return centered inputs ``[n, M]`` in the basis."""
        return (inputs - self.mean) @ self.basis

    def changes(self, regularizers: Sequence[float]) -> list[Tensor]:
        """Return V ``[K, M]`` for L regularizers r; empty where nothing was lost.

        By Woodbury's identity the inverse of the Gram matrix plus r is ``A + V^T V``, with ``A =
        1 / (values + r)``, ``V = L^-1 U A``, U the lost rows and ``L L^T = I - U A U^T``.

        Raises:
            ArithmeticError: What is left is singular in float64.
        """
        if self.lost is None:
            return []
        found = []
        for regularizer in regularizers:
            scaled = self.lost / (self.values + regularizer)
            identity = torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
            factor, failed = torch.linalg.cholesky_ex(identity - scaled @ self.lost.T)
            if bool(failed) or float(factor.diagonal().min()) < SMALLEST_PIVOT:
                raise ArithmeticError("what is left of a ridge regression is singular")
            found.append(torch.linalg.solve_triangular(factor, scaled, upper=False))
        return found

    def solutions(
        self, regularizers: Sequence[float], changes: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return the weights ``[M, L, C]``, in the basis, of fits with L regularizers.

        Args:
            regularizers: L numbers.
            changes: Of these regularizers, if they are there.
        """
        penalized = self.values[:, None] + self.values.new_tensor(regularizers)
        found = self.products[:, None] / penalized[:, :, None]
        changes = self.changes(regularizers) if changes is None else changes
        for level, change in enumerate(changes):
            found[:, level] += change.T @ (change @ self.products)
        return found

    def answers(self, coordinates: Tensor, solutions: Tensor) -> Tensor:
        """Return the answers ``[L, n, C]`` of ridge regressions of some `solutions`."""
        levels = solutions.shape[1]
        at_once = max(1, BLOCK // self.products.numel())
        found = []
        for start in range(0, levels, at_once):
            some = solutions[:, start : start + at_once]
            # one product for many regularizers: with few classes, reading the coordinates is most
            answers = coordinates @ some.flatten(1)
            found.append(answers.unflatten(1, (some.shape[1], -1)).transpose(0, 1))
        return self.target + torch.cat(found)

    def lengths(self, coordinates: Tensor, regularizers: Sequence[float]) -> Tensor:
        """Return ``x^T (diag(values) + r)^-1 x`` ``[n, L]`` of coordinates ``[n, M]``."""
        inverse = 1 / (self.values[:, None] + self.values.new_tensor(regularizers))
        return coordinates.square() @ inverse

    def kernels(
        self, coordinates: Tensor, regularizers: Sequence[float], changes: Sequence[Tensor]
    ) -> Tensor:
        """Return ``1 / sum_i w_i + x^T (G + r)^-1 x'`` ``[L, n, g, g]`` in groups of g samples.

        Args:
            coordinates: ``[n, g, M]``.
            regularizers: L numbers r.
            changes: Of these regularizers.
        """
        if coordinates.shape[1] == 1:
            rows = coordinates[:, 0]
            lengths = self.lengths(rows, regularizers)
            for level, change in enumerate(changes):
                lengths[:, level] += (change @ rows.T).square().sum(dim=0)
            return lengths.T[:, :, None, None] + self.constant
        found = []
        for level, regularizer in enumerate(regularizers):
            scaled = coordinates / (self.values + regularizer).sqrt()
            kernel = scaled @ scaled.transpose(1, 2)
            if changes:
                along = coordinates @ changes[level].T
                kernel += along @ along.transpose(1, 2)
            found.append(kernel)
        return torch.stack(found) + self.constant


def spectrum(statistics: Statistics, *, intercept: bool = True) -> Spectrum:
    """Decompose statistics once, for all regularizers.

    The regression minimizes ``sum_i w_i |t_i - W x_i - b|^2 + regularizer |W|^2`` with one-hot
    targets t_i and ``w_i`` the weight of the sample times that of its class. The intercept b is not
    penalized; without one, b is 0 and the inputs are not centered.

    Args:
        statistics: Those of samples of positive total weight.
        intercept: Fit b.
    """
    weighted = statistics.class_weights * statistics.counts
    total = weighted.sum()
    mean = statistics.class_weights @ statistics.sums / total * intercept
    centered = statistics.gram - total * torch.outer(mean, mean)
    values, basis = torch.linalg.eigh((centered + centered.T) / 2)
    products = statistics.class_weights[:, None] * statistics.sums - torch.outer(weighted, mean)
    return Spectrum(
        values=values.clamp_min(0),
        basis=basis,
        mean=mean,
        target=weighted / total * intercept,
        products=basis.T @ products.T,
        constant=intercept / float(total),
    )


def solve(parts: Spectrum, regularizer: float) -> tuple[Tensor, Tensor]:
    """Return weight ``[C, M]`` and intercept ``[C]`` of the ridge regression.

    Example:
        >>> from trainables.closed_form.statistics import no_samples, samples
        >>> kept = no_samples(torch.ones(2).double(), width=1)
        >>> kept.add(samples(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1])))
        >>> weight, intercept = solve(spectrum(kept), regularizer=2.0)
        >>> weight.flatten().tolist(), intercept.tolist()
        ([-0.25, 0.25], [1.0, 0.0])
    """
    weights, intercepts = solve_each(parts, [regularizer])
    return weights[0], intercepts[0]


def solve_each(parts: Spectrum, regularizers: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return weights ``[L, C, M]`` and intercepts ``[L, C]`` for L regularizers."""
    weights = parts.basis @ parts.solutions(regularizers).flatten(1)
    each = weights.unflatten(1, (len(regularizers), -1)).permute(1, 2, 0)
    return each, parts.target - each @ parts.mean


class LeftOut(NamedTuple):
    """Answers to a block of samples by fits that lack the sample's group.

    Args:
        rows: Positions of the samples ``[n]``.
        answers: ``[L, n, C]``, for each of L regularizers.
    """

    rows: Tensor
    answers: Tensor


def kept_coordinates(parts: Spectrum, data: Samples) -> Tensor | None:
    """Return the coordinates of all samples ``[N, M]``; ``None`` if they are too many to keep."""
    if len(data.labels) * len(parts.values) > MOST_KEPT:
        return None
    return parts.coordinates(data.inputs(slice(None)))


def leave_out(
    parts: Spectrum,
    data: Samples,
    sample_weights: Tensor,
    regularizers: Sequence[float],
    *,
    coordinates: Tensor | None = None,
) -> Iterator[LeftOut]:
    """Yield, block by block, the answers to each sample by the fit without its group.

    They are those of a refit, with weights and regularizer as they are. With the residuals R of
    the full fit on the group and its block K of ``1 / sum_i w_i + (x - m)^T (G + r)^-1 (x' - m)``,
    the residuals without the group are ``(I - K diag(w))^-1 R``.

    Args:
        parts: Spectrum of the statistics of all samples.
        data: All samples.
        sample_weights: Weight of each sample in the fit ``[N]``: its own times that of its class.
        regularizers: L numbers > 0.
        coordinates: Of all samples ``[N, M]``; ``None``: they are computed block by block.
    """
    changes = parts.changes(regularizers)
    solutions = parts.solutions(regularizers, changes)
    classes, levels = len(parts.target), len(regularizers)
    for members in groups_of_one_size(data.groups):
        size = members.shape[1]
        numbers = size * (data.width + levels * (2 * classes + size))
        for rows in members.split(max(1, BLOCK // numbers)):
            if coordinates is None:
                inputs = parts.coordinates(data.inputs(rows.flatten()))
            else:
                inputs = coordinates[rows.flatten()]
            targets = torch.nn.functional.one_hot(data.labels[rows], classes).double()
            inside = sample_weights[rows]
            residuals = targets - parts.answers(inputs, solutions).unflatten(1, rows.shape)
            kernels = parts.kernels(inputs.unflatten(0, rows.shape), regularizers, changes)
            identity = torch.eye(size, dtype=kernels.dtype, device=kernels.device)
            left = identity - kernels * inside[:, None, :]
            without = residuals / left if size == 1 else torch.linalg.solve(left, residuals)
            yield LeftOut(rows.flatten(), (targets - without).flatten(1, 2))
