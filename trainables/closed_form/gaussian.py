"""Gaussian classes of one covariance: linear discriminant analysis, and its answers out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.groups import group_blocks
from trainables.closed_form.scale import NEVER
from trainables.closed_form.statistics import Samples, Statistics, no_samples

ROUNDING = 1e-12  # a scatter below this share of the one before is zero but for rounding


class SharedGaussian(NamedTuple):
    """Class means and the scatter within classes, by its eigenvectors.

    Attributes:
        counts: Images per class ``[C]``, float64.
        means: Class means ``[C, D]``; zero for an absent class.
        basis: Eigenvectors of the scatter as columns ``[D, D]``.
        spectrum: Its eigenvalues ``[D]``, at least 0.
    """

    counts: Tensor
    means: Tensor
    basis: Tensor
    spectrum: Tensor


class LinearLogits(NamedTuple):
    """Logits ``x @ weight.T + bias``; weight ``[C, D]``, bias ``[C]``."""

    weight: Tensor
    bias: Tensor


def shared_gaussian(kept: Statistics) -> SharedGaussian:
    """Return class means and the scatter ``sum_i (x_i - mu_{y_i}) (x_i - mu_{y_i})^T``.

    Args:
        kept: Sums over samples, with class weights of 1.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> rows, labels = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1])
        >>> found = shared_gaussian(sums_of(samples(rows, labels), num_classes=2))
        >>> found.means.tolist(), found.spectrum.tolist()
        ([[1.0], [9.0]], [2.0])
    """
    means = kept.sums / _positive(kept.counts)[:, None]
    scatter = kept.gram - kept.sums.T @ means
    spectrum, basis = torch.linalg.eigh((scatter + scatter.T) / 2)
    return SharedGaussian(kept.counts, means, basis, spectrum.clamp_min(0))


def sums_of(data: Samples, num_classes: int) -> Statistics:
    """Return the statistics of samples with class weights of 1."""
    ones = torch.ones(num_classes, dtype=torch.float64, device=data.labels.device)
    kept = no_samples(ones, width=data.width)
    kept.add(data)
    return kept


def discriminant(
    model: SharedGaussian, *, shrinkage: float, unbiased: bool = False
) -> LinearLogits:
    """Return linear discriminant analysis with a shrunk covariance and equal priors.

    ``w_c = A mu_c`` and ``b_c = -mu_c^T A mu_c / 2`` with ``A^-1 = (1 - shrinkage) S + shrinkage
    tr(S)/D I``, S the scatter over N. From weights and biases their mean over the classes is
    subtracted, which changes no probability. Without any variance A is the identity. An absent
    class has zeros.

    The mean of n_c images is off by noise of covariance S / n_c, which makes ``mu_c^T A mu_c``
    larger by ``tr(A S) / n_c``: a rare class looks further away than it is.

    Args:
        model: Means and scatter.
        shrinkage: In (0, 1).
        unbiased: Subtract ``tr(A S) / n_c`` from ``mu_c^T A mu_c``.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> rows, labels = torch.tensor([[0.0], [2.0], [8.0], [10.0]]), torch.tensor([0, 0, 1, 1])
        >>> model = shared_gaussian(sums_of(samples(rows, labels), num_classes=2))
        >>> weight, bias = discriminant(model, shrinkage=0.5)  # equal at x = 5
        >>> weight.flatten().tolist(), bias.tolist()
        ([-4.0, 4.0], [20.0, -20.0])
    """
    images = model.counts.sum()
    shift = _shift(model.spectrum.sum(), images, len(model.spectrum), shrinkage)
    spread = _factor(images, shrinkage) / (model.spectrum + shift)
    rotated = model.means @ model.basis
    weight = (rotated * spread) @ model.basis.T
    bias = -(rotated.square() @ spread) / 2
    if unbiased:
        noise = (spread * model.spectrum).sum() / _positive(images)
        bias = bias + noise / _positive(model.counts) / 2
    present = model.counts > 0
    weight = torch.where(present[:, None], weight - weight[present].mean(dim=0), 0.0)
    return LinearLogits(weight, torch.where(present, bias - bias[present].mean(), 0.0))


def leave_out_discriminant(
    data: Samples, model: SharedGaussian, *, shrinkages: Sequence[float], unbiased: bool = False
) -> Tensor:
    """Return the logits of each sample from `discriminant` without the sample's group, exactly.

    The scatter's inverse changes by a block of the group's size.

    Args:
        data: The samples of the fit, of weights above 0.
        model: `shared_gaussian` of all of them.
        shrinkages: L numbers in (0, 1).
        unbiased: See `discriminant`.

    Returns:
        ``[L, N, C]`` float64; a class that leaves with the group has `NEVER`.
    """
    means = model.means @ model.basis
    result = means.new_empty(len(shrinkages), len(data.labels), len(means))
    for block in group_blocks(data.groups, max(data.width, len(means))):
        left = _leave(block, data, data.labels, means, model)
        present = left.counts()[:, None] > 0
        for level, shrinkage in enumerate(shrinkages):
            answers = _centered(left.logits(shrinkage, unbiased=unbiased), present)
            result[level, block.flatten()] = answers.flatten(0, 1)
    return result


def leave_out_distances(
    data: Samples, model: SharedGaussian, *, ridge: float, beside: SharedGaussian | None = None
) -> Tensor:
    """Return squared Mahalanobis distances of each sample without its group, exactly.

    ``(x - mu_c)^T (S + ridge tr(T)/D I)^-1 (x - mu_c)``, S the scatter over the number of samples
    and T that around the mean of all, or S itself; means and scatters are those of all samples but
    the group. Where T has no variance the covariance is the identity.

    Args:
        data: The samples of the fit, of weights above 0.
        model: `shared_gaussian` of all of them.
        ridge: Above 0.
        beside: T: `shared_gaussian` of the same samples as a single class; ``None``: S.

    Returns:
        ``[N, C]`` float64; infinite for a class that leaves with the group, or is absent.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> rows, labels = torch.tensor([[0.0], [2.0], [4.0], [9.0]]), torch.tensor([0, 0, 0, 1])
        >>> data = samples(rows, labels)
        >>> found = leave_out_distances(data, shared_gaussian(sums_of(data, 2)), ridge=0.5)
        >>> found[0].round(decimals=6).tolist()  # means 3 and 9, S = 2/3, 1.5 times that is 1
        [9.0, 81.0]
    """
    means = model.means @ model.basis
    result = means.new_empty(len(data.labels), len(means))
    for block in group_blocks(data.groups, max(data.width, len(means))):
        left = _leave(block, data, data.labels, means, model)
        other = left
        if beside is not None:
            center = beside.means @ beside.basis
            other = _leave(block, data, torch.zeros_like(data.labels), center, beside)
        images, trace = _positive(left.images()), other.trace()
        shift = torch.where(trace > 0, ridge * trace / data.width, images)
        found = left.lengths(shift)[:, :, None] - 2 * left.answers(shift)
        found = (images[:, None, None] * found).clamp_min(0)
        gone = (left.counts() <= 0)[:, None]
        result[block.flatten()] = found.masked_fill(gone, torch.inf).flatten(0, 1)
    return result


def _leave(
    block: Tensor, data: Samples, labels: Tensor, means: Tensor, model: SharedGaussian
) -> _LeftOut:
    """Return groups ``[B, M]`` of samples as they leave a model of classes ``labels [N]``."""
    rows = (data.inputs(block.flatten()) @ model.basis).unflatten(0, block.shape)
    return _LeftOut(rows, labels[block], data.weights[block], means, model)


class _LeftOut:
    """B groups of M samples that leave, in the eigenbasis of the scatter.

    The scatter loses ``Z^T K Z``, with Z the deviations from the class means, s the weights, and
    within a class ``K = diag(s) + s s^T / n``, n the weight that stays.

    Args:
        rows: Features of the groups ``[B, M, D]``, rotated.
        labels: ``[B, M]``.
        weights: ``[B, M]``, above 0.
        means: Class means ``[C, D]``, rotated.
        model: Means and scatter of all samples.
    """

    def __init__(
        self, rows: Tensor, labels: Tensor, weights: Tensor, means: Tensor, model: SharedGaussian
    ) -> None:
        self.rows, self.labels, self.weights = rows, labels, weights
        self.means, self.model = means, model
        self.deviations = rows - means[labels]
        self.same = (labels[:, :, None] == labels[:, None, :]).double()
        before = model.counts[labels]  # weight of the class of each row, [B, M]
        after = before - (self.same @ weights[:, :, None])[:, :, 0]
        self.after = torch.where(after > ROUNDING * before, after, 0.0)
        kept = (self.after > 0).double()
        # of a class that leaves whole K is diag(s)
        self.inverse_weights = (
            torch.diag_embed(1 / weights) - self.same * (kept / before)[:, :, None]
        )
        lost = self.same @ (weights[:, :, None] * self.deviations)
        self.own_means = means[labels] - lost / _positive(self.after)[:, :, None]

    def counts(self) -> Tensor:
        """Return the images of each class that are left without each group: ``[B, C]``."""
        counts = self.model.counts.repeat(len(self.labels), 1)
        return counts.scatter(1, self.labels, self.after)

    def images(self) -> Tensor:
        """Return the weight of all images that are left without each group ``[B]``."""
        return self.model.counts.sum() - self.weights.sum(dim=1)

    def logits(self, shrinkage: float, *, unbiased: bool) -> Tensor:
        """Return logits ``[B, M, C]``."""
        images = self.images()
        shift = _shift(self.trace(), images, len(self.model.spectrum), shrinkage)
        found = self.answers(shift, unbiased=unbiased)
        return _factor(images, shrinkage)[:, None, None] * found

    def answers(self, shift: Tensor, *, unbiased: bool = False) -> Tensor:
        """Return ``x A mu - mu A mu / 2`` ``[B, M, C]``, ``A^-1`` the scatter plus a shift ``[B]``.

        The scatter is that without each group.
        """
        spectrum = self.model.spectrum
        spread = 1 / (spectrum + shift[:, None])  # inverse before the group leaves, [B, D]
        inputs, scaled = (part * spread[:, None] for part in (self.rows, self.deviations))
        group = self.deviations.transpose(1, 2)
        bridge: Tensor = torch.linalg.solve(
            self.inverse_weights - scaled @ group, inputs @ group, left=False
        )

        def of(means: Tensor, lengths: Tensor) -> Tensor:
            """Return ``x A mu - mu A mu / 2`` with the inverse after the group has left."""
            seen = scaled @ means
            solved: Tensor = torch.linalg.solve(self.inverse_weights - scaled @ group, seen)
            length = lengths + (seen * solved).sum(dim=1)
            return inputs @ means + bridge @ seen - length[:, None] / 2

        own = self.own_means
        found = of(self.means.T, spread @ self.means.square().T)
        changed = of(own.transpose(1, 2), (own.square() * spread[:, None]).sum(dim=2))
        found = found.scatter(2, self.labels[:, None].expand_as(changed), changed)
        if unbiased:
            block = torch.linalg.inv(self.inverse_weights - scaled @ group)
            inverse = spread.sum(dim=1) + (block * (scaled @ scaled.transpose(1, 2))).sum(
                dim=(1, 2)
            )
            noise = (len(spectrum) - shift * inverse) / _positive(self.images())
            found = found + noise[:, None, None] / _positive(self.counts())[:, None] / 2
        return found

    def lengths(self, shift: Tensor) -> Tensor:
        """Return ``x A x`` of each sample ``[B, M]``, see `answers`."""
        spread = 1 / (self.model.spectrum + shift[:, None])
        group = self.deviations.transpose(1, 2)
        scaled = self.deviations * spread[:, None]
        seen = (self.rows * spread[:, None]) @ group
        solved: Tensor = torch.linalg.solve(self.inverse_weights - scaled @ group, seen, left=False)
        return (self.rows.square() * spread[:, None]).sum(dim=2) + (solved * seen).sum(dim=2)

    def trace(self) -> Tensor:
        """Return the trace of the scatter without each group ``[B]``; zero if it is rounding."""
        products = self.deviations @ self.deviations.transpose(1, 2)
        pairs = self.same * self.weights[:, :, None] * self.weights[:, None]
        weights = pairs * ((self.after > 0) / _positive(self.after))[:, :, None]
        weights = weights + torch.diag_embed(self.weights)
        before = self.model.spectrum.sum()
        trace = before - (products * weights).sum(dim=(1, 2))
        return torch.where(trace > ROUNDING * before, trace, 0.0)


def _factor(images: Tensor, shrinkage: float) -> Tensor:
    """Return the factor from the inverse of ``scatter + shift I`` to that of the covariance."""
    return _positive(images) / (1 - shrinkage)


def _positive(counts: Tensor) -> Tensor:
    """Return counts with 1 in place of 0, for a division of what is not used."""
    return torch.where(counts > 0, counts, 1.0)


def _shift(trace: Tensor, images: Tensor, width: int, shrinkage: float) -> Tensor:
    """Return what is added to the scatter's eigenvalues; without variance the covariance is I."""
    shift = shrinkage / (1 - shrinkage) * trace / width
    return torch.where(trace > 0, shift, _factor(images, shrinkage))


def _centered(logits: Tensor, present: Tensor) -> Tensor:
    """Subtract each row's mean over the classes that are present; others get `NEVER`."""
    kept = torch.where(present, logits, 0.0)
    number = present.sum(dim=-1, keepdim=True).clamp_min(1)
    return torch.where(present, logits - kept.sum(dim=-1, keepdim=True) / number, NEVER)
