"""Ridge regression on one-hot labels, with exact answers to samples that were left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from trainables.closed_form.groups import groups_of_one_size
from trainables.closed_form.statistics import BLOCK, Samples, Statistics
from trainables.functional.class_weights import effective_number, filled_counts

Balance = Literal["none", "inverse_frequency", "effective_number", "logit_adjusted"]
BALANCES = get_args(Balance)


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
    """

    values: Tensor
    basis: Tensor
    mean: Tensor
    target: Tensor
    products: Tensor
    constant: float

    def coordinates(self, inputs: Tensor) -> Tensor:
        """Return centered inputs ``[n, M]`` in the basis."""
        return (inputs - self.mean) @ self.basis

    def answers(self, coordinates: Tensor, regularizer: float) -> Tensor:
        """Return the answers ``[n, C]`` of the ridge regression with a regularizer."""
        return self.target + (coordinates / (self.values + regularizer)) @ self.products

    def mean_value(self) -> float:
        """Return the mean eigenvalue, the unit of a regularizer."""
        return float(self.values.mean())


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
    weight = (parts.basis / (parts.values + regularizer) @ parts.products).T
    return weight, parts.target - weight @ parts.mean


class LeftOut(NamedTuple):
    """Answers to a block of samples by fits that lack the sample's group.

    Args:
        rows: Positions of the samples ``[n]``.
        answers: ``[L, n, C]``, for each of L regularizers.
    """

    rows: Tensor
    answers: Tensor


def leave_out(
    parts: Spectrum, data: Samples, sample_weights: Tensor, regularizers: Sequence[float]
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
    """
    classes, levels = len(parts.target), len(regularizers)
    for members in groups_of_one_size(data.groups):
        size = members.shape[1]
        numbers = size * (data.width + levels * (2 * classes + size))
        for rows in members.split(max(1, BLOCK // numbers)):
            inputs = parts.coordinates(data.inputs(rows.flatten()))
            targets = torch.nn.functional.one_hot(data.labels[rows], classes).double()
            inside = sample_weights[rows]
            answers = [
                targets - _residuals_without(parts, inputs, targets, inside, regularizer)
                for regularizer in regularizers
            ]
            yield LeftOut(rows.flatten(), torch.stack(answers).flatten(1, 2))


def _residuals_without(
    parts: Spectrum, coordinates: Tensor, targets: Tensor, weights: Tensor, regularizer: float
) -> Tensor:
    """Return residuals ``[n, g, C]`` of groups of g samples under the fits without them."""
    n, size, classes = targets.shape
    residuals = targets - parts.answers(coordinates, regularizer).view(n, size, classes)
    scaled = (coordinates / (parts.values + regularizer).sqrt()).view(n, size, -1)
    kernel = scaled @ scaled.transpose(1, 2) + parts.constant
    left = torch.eye(size, dtype=kernel.dtype, device=kernel.device) - kernel * weights[:, None, :]
    without: Tensor = torch.linalg.solve(left, residuals)
    return without
