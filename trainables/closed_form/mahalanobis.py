"""One Gaussian per class (FeCAM): shrunk, normalized covariances, and their answers out of fold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.gaussian import ROUNDING
from trainables.closed_form.groups import group_blocks
from trainables.functional.l2_normalize import l2_normalize


class Shrinkage(NamedTuple):
    """What shrinking adds to a covariance, as the reference code does, twice.

    Once adds ``alpha1`` times the mean variance to the diagonal, and ``alpha2`` times the mean
    covariance to all others.

    Attributes:
        diagonal: ``alpha1``.
        off_diagonal: ``alpha2``.
    """

    diagonal: float
    off_diagonal: float

    def added(self, trace: Tensor, total: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return what is added to variances and to covariances, from the trace and the sum of C.

        Example:
            >>> Shrinkage(1.0, 1.0).added(torch.tensor(2.0), torch.tensor(4.0), 2)
            (tensor(3.), tensor(3.))
        """
        covariance = (total - trace) / max(width * (width - 1), 1)
        return (
            ((1 + self.diagonal) ** 2 - 1) * trace / width,
            ((1 + self.off_diagonal) ** 2 - 1) * covariance,
        )


class Axes(NamedTuple):
    """Scatter ``sum_i (t_i - m)(t_i - m)^T`` of one class, by its eigenvectors.

    Attributes:
        images: Images of the class.
        mean: m ``[D]``.
        basis: Eigenvectors of eigenvalues above zero ``[R, D]``.
        spectrum: The eigenvalues ``[R]``.
        variance: Diagonal of the scatter ``[D]``.
        total: Sum of all its entries.
    """

    images: int
    mean: Tensor
    basis: Tensor
    spectrum: Tensor
    variance: Tensor
    total: Tensor


class Metric(NamedTuple):
    """Squared distance ``|d v|^2 / g - sum_k r_k (q_k . d v)^2`` of a difference v.

    Attributes:
        deviation: d ``[D]``, standard deviations of the shrunk covariance.
        precision: 1 / g.
        basis: q ``[R, D]``.
        reduction: r ``[R]``.
    """

    deviation: Tensor
    precision: Tensor
    basis: Tensor
    reduction: Tensor


def signed_power(values: Tensor, power: float) -> Tensor:
    """Return ``sign(x) |x|^power``, Tukey's transform for features of both signs.

    Example:
        >>> signed_power(torch.tensor([4.0, -9.0, 0.0]), 0.5)
        tensor([ 2., -3.,  0.])
    """
    if power == 1:
        return values
    # clamped, so that the gradient at zero is zero, not infinite
    return values.sign() * values.abs().clamp_min(1e-30).pow(power)


def axes_of(rows: Tensor) -> Axes:
    """Decompose the scatter of a class's transformed features ``[n, D]``, n >= 1.

    Example:
        >>> found = axes_of(torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64))
        >>> found.spectrum.tolist(), found.basis.abs().round(decimals=9).tolist()
        ([2.0], [[1.0, 0.0]])
    """
    mean = rows.mean(dim=0)
    deviations = rows - mean
    if len(rows) <= rows.shape[1]:
        spectrum, mixing = torch.linalg.eigh(deviations @ deviations.T)
        kept = spectrum > ROUNDING * spectrum[-1].clamp_min(1e-300)
        basis = mixing[:, kept].T @ deviations / spectrum[kept].sqrt()[:, None]
    else:
        spectrum, columns = torch.linalg.eigh(deviations.T @ deviations)
        kept = spectrum > ROUNDING * spectrum[-1].clamp_min(1e-300)
        basis = columns.T[kept]
    return Axes(
        images=len(rows),
        mean=mean,
        basis=basis,
        spectrum=spectrum[kept],
        variance=deviations.square().sum(dim=0),
        total=deviations.sum(dim=1).square().sum(),
    )


def metric_of(axes: Axes, shrinkage: Shrinkage) -> Metric:
    """Return the inverse of the class's shrunk and normalized covariance as a `Metric`.

    With ``S = C + g I + b 1 1^T`` and the standard deviations d of S, the normalized covariance is
    ``S_jk / (d_j d_k)``. A class with one image, or without variance, has the identity.
    """
    width = len(axes.mean)
    if not len(axes.spectrum):
        ones = torch.ones_like(axes.mean)
        return Metric(ones, ones[0], axes.basis, axes.spectrum)
    number = axes.images - 1
    variances, covariances = shrinkage.added(
        axes.variance.sum() / number, axes.total / number, width
    )
    floor = variances - covariances
    # C + b 1 1^T in a basis of its range: the eigenvectors of C, and what they lack of 1
    ones = torch.ones_like(axes.mean)
    along = axes.basis @ ones
    rest = ones - along @ axes.basis
    length = rest.norm()
    span = torch.cat([axes.basis, (rest / length.clamp_min(1e-300))[None]])
    coordinates = torch.cat([along, length[None]])
    inner = torch.diag(torch.cat([axes.spectrum / number, length.new_zeros(1)]))
    values, mixing = torch.linalg.eigh(inner + covariances * coordinates.outer(coordinates))
    reduction = values / (values + floor) / floor
    deviation = (axes.variance / number + variances).sqrt()
    return Metric(deviation, 1 / floor, mixing.T @ span, reduction)


def squared_distances(metric: Metric, differences: Tensor) -> Tensor:
    """Return the squared distances of differences ``[..., D]``.

    Example:
        >>> one = torch.ones(2)
        >>> metric = Metric(one, one[0], torch.tensor([[1.0, 0.0]]), torch.tensor([0.75]))
        >>> squared_distances(metric, torch.tensor([[2.0, 3.0]]))  # 4 (1 - 0.75) + 9
        tensor([10.])
    """
    scaled = differences * metric.deviation
    along = (scaled @ metric.basis.T).square() @ metric.reduction
    return scaled.square().sum(dim=-1) * metric.precision - along


class ClassRows(NamedTuple):
    """Features as they are for one class's distances.

    Attributes:
        raw: Features ``[N, D]``, whose class means are transformed.
        transformed: ``signed_power(raw)``, of which covariances are computed.
        directions: Their directions, of length 1.
    """

    raw: Tensor
    transformed: Tensor
    directions: Tensor


def class_rows(features: Tensor, power: float) -> ClassRows:
    """Return features ``[N, D]`` in float64 as class distances need them."""
    raw = features.double()
    transformed = signed_power(raw, power)
    return ClassRows(raw, transformed, l2_normalize(transformed))


def leave_out_distances(
    rows: ClassRows,
    groups: Tensor,
    members: Tensor,
    axes: Axes,
    *,
    shrinkage: Shrinkage,
    power: float,
) -> tuple[Tensor, Tensor]:
    """Return distances to a class of the images whose groups have images of it, exactly.

    Each is the distance under the metric and the mean that the class has without the image's group.

    Args:
        rows: All images.
        groups: Group of each image ``[N]``.
        members: Whether an image is of the class ``[N]`` bool.
        axes: The class's scatter.
        shrinkage: Of the covariance.
        power: Of Tukey's transform.

    Returns:
        Positions of the images ``[K]``, and distances ``[K]``; infinite where the class leaves.
    """
    touched = torch.isin(groups, groups[members]).nonzero().flatten()
    mean = rows.raw[members].mean(dim=0)
    places, found = [touched[:0]], [mean[:0]]
    for block in group_blocks(groups[touched], len(axes.mean)):
        picked = touched[block]
        inside = members[picked].to(mean)
        after = axes.images - inside.sum(dim=1)
        lost = (inside[:, None] @ rows.raw[picked])[:, 0]
        own = (axes.images * mean - lost) / after.clamp_min(1)[:, None]
        center = l2_normalize(signed_power(own, power))
        differences = rows.directions[picked] - center[:, None]
        deviations = inside[:, :, None] * (rows.transformed[picked] - axes.mean)
        distance = _without(axes, deviations, inside, differences, shrinkage)
        distance = torch.where(after[:, None] > 0, distance, torch.inf)
        places.append(picked.flatten())
        found.append(distance.flatten())
    return torch.cat(places), torch.cat(found)


def _without(
    axes: Axes, deviations: Tensor, inside: Tensor, differences: Tensor, shrinkage: Shrinkage
) -> Tensor:
    """Return squared distances ``[B, M]`` of differences once their groups have left the scatter.

    ``(n - 1) S = W + h I + Y^T V Y``: the scatter W in its eigenbasis, and a block of the group's
    deviations and of 1, by which the inverse changes.
    """
    after = axes.images - inside.sum(dim=1)
    number = (after - 1).clamp_min(1)
    mean_lost = deviations.sum(dim=1)
    per_image = (1 / after.clamp_min(1))[:, None]
    variance = axes.variance - deviations.square().sum(dim=1) - mean_lost.square() * per_image
    total = axes.total - deviations.sum(dim=2).square().sum(dim=1)
    total = total - mean_lost.sum(dim=1).square() * per_image[:, 0]
    trace = variance.sum(dim=1)
    flat = (after < 2) | (trace <= ROUNDING * axes.variance.sum())
    trace = torch.where(flat, 1.0, trace)  # of no consequence: such a class has the identity
    width = len(axes.mean)
    variances, covariances = shrinkage.added(trace / number, total / number, width)
    covariances = torch.where(flat, 0.0, covariances)
    scale = (variance / number[:, None] + variances[:, None]).clamp_min(0).sqrt()
    scaled = differences * scale[:, None]
    ones = torch.ones_like(deviations[:, :1])
    changed = torch.cat([deviations, ones], dim=1)
    weights = (
        -torch.diag_embed(inside) - inside[:, :, None] * inside[:, None] * per_image[:, :, None]
    )
    weights = torch.nn.functional.pad(weights, (0, 1, 0, 1))
    weights[:, -1, -1] = number * covariances
    inverse = _Inverse(axes, number * (variances - covariances))
    between = inverse.products(changed, changed)
    seen = inverse.products(changed, scaled)
    eye = torch.eye(between.shape[1]).to(between)
    solved = torch.linalg.solve(eye + weights @ between, weights @ seen)
    distance = inverse.lengths(scaled) - (seen * solved).sum(dim=1)
    plain = differences.square().sum(dim=2)
    return torch.where(flat[:, None], plain, number[:, None] * distance)


class _Inverse:
    """Products under ``(W + h I)^-1``, with W in its eigenbasis.

    Args:
        axes: Eigenvectors of W.
        shift: h of each block ``[B]``, > 0.
    """

    def __init__(self, axes: Axes, shift: Tensor) -> None:
        self.basis, self.shift = axes.basis, shift[:, None, None]
        # 1 / (spectrum + h) - 1 / h, so that what lies outside of the basis needs no vectors
        self.change = 1 / (axes.spectrum + self.shift) - 1 / self.shift

    def products(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return ``rows (W + h I)^-1 columns^T`` for ``[B, P, D]`` and ``[B, Q, D]``."""
        along = (rows @ self.basis.T) * self.change
        inside = along @ (columns @ self.basis.T).transpose(1, 2)
        return inside + rows @ columns.transpose(1, 2) / self.shift

    def lengths(self, rows: Tensor) -> Tensor:
        """Return the product of each row with itself ``[B, P]``."""
        along = ((rows @ self.basis.T).square() * self.change).sum(dim=2)
        return along + rows.square().sum(dim=2) / self.shift[:, :, 0]
