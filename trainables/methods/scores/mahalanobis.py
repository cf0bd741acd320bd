"""Mahalanobis distance."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.scores import Score


class Mahalanobis(Score):
    """Negative Mahalanobis distance to the nearest class mean, under the pooled covariance.

    ``confidence = -min_c (z - mu_c)^T S^-1 (z - mu_c)`` with
    ``S = 1/N sum_i (z_i - mu_{y_i}) (z_i - mu_{y_i})^T + ridge tr/D I``, tr the trace of the first
    term. Rare classes share the covariance of all classes; the normalization of z removes the
    dependence of feature norms on class frequency.

    Args:
        normalize: L2-normalize features first, for long-tailed data; the original does not.
        ridge: Fraction of the mean variance that is added to the diagonal of S, > 0, so that S is
            invertible with fewer samples than dimensions. Default 1e-3, this project's choice.

    Shapes:
        fit: features [N, D], labels [N] int64 -> state (float64). call: features [B, D], state ->
        confidence [B] <= 0, float32 (float64 for float64 input). Higher values indicate a known
        class. Computed in float64, because the inverse of S in float32 can lose all digits.

    An absent class has no mean and no effect. With a single sample S = I. With fewer samples than
    dimensions the confidence of a fresh sample is about ``-D / ridge``: what lies outside of the
    samples' span outweighs the rest. The order of samples then hardly depends on ``ridge``.

    Raises:
        ValueError: There are no training samples.

    Source:
        Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", arXiv 1807.03888, eq. (2) (penultimate layer, no input noise);
        arXiv 2605.17799 for normalized features and long-tailed data. Equal to pytorch-ood's score
        up to a constant factor for ``normalize=False`` and a vanishing ridge.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 1.0], [2.0, -1.0]])
        >>> labels = torch.zeros(4, dtype=torch.int64)
        >>> score = Mahalanobis(normalize=False, ridge=1e-9)
        >>> state = score.fit(features=features, labels=labels)
        >>> score(features=torch.tensor([[2.0, 0.0], [4.0, 0.0]]), state=state).round(decimals=3)
        tensor([-0., -8.])
    """

    normalize: bool = True
    ridge: Annotated[float, Field(gt=0), Range(1e-4, 1e-1, log=True)] = 1e-3

    def fit(self, *, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute class means and the pooled covariance of training samples."""
        if len(labels) == 0:
            raise ValueError("scores/mahalanobis needs training samples to fit; received none")
        values = prepare(features, normalize=self.normalize)
        means = class_means(values, labels)
        whitener = whitening(values - means[labels], ridge=self.ridge)
        return {"means": means[labels.unique()] @ whitener, "whitener": whitener}

    def __call__(self, *, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        values = prepare(features, normalize=self.normalize)
        distance = squared_distances(values @ state["whitener"].to(values), state["means"])
        return -distance.amin(dim=1).to(torch.promote_types(features.dtype, torch.float32))

    def leave_out(
        self, *, features: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor
    ) -> torch.Tensor:
        """Return the confidence of each training sample by a fit without its group, exactly."""
        distance = left_out_distances(
            prepare(features, normalize=self.normalize), labels, groups, ridge=self.ridge
        )
        return -distance.amin(dim=1).to(torch.promote_types(features.dtype, torch.float32))


def left_out_distances(
    values: torch.Tensor,
    labels: torch.Tensor,
    groups: torch.Tensor,
    *,
    ridge: float,
    of_total: bool = False,
) -> torch.Tensor:
    """Return squared distances ``[N, C]`` under fits without the sample's group; float64.

    Args:
        values: Prepared features ``[N, D]``.
        labels: ``[N]`` int64.
        groups: ``[N]`` int64.
        ridge: See `Mahalanobis`.
        of_total: The ridge is a fraction of the variance around the mean of all samples.
    """
    from trainables.closed_form.gaussian import leave_out_distances, shared_gaussian, sums_of
    from trainables.closed_form.statistics import samples

    # around the mean of all, so that a distance is no difference of large numbers
    data = samples(values - values.mean(dim=0), labels, groups=groups)
    model = shared_gaussian(sums_of(data, int(labels.max()) + 1))
    beside = None
    if of_total:
        beside = shared_gaussian(sums_of(data._replace(labels=torch.zeros_like(labels)), 1))
    return leave_out_distances(data, model, ridge=ridge, beside=beside)


def prepare(features: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """Return features in float64, optionally L2-normalized; a zero feature stays zero."""
    values = features.detach().double()
    return torch.nn.functional.normalize(values, dim=1) if normalize else values


def class_means(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean per class ``[max label + 1, D]``; zero for an absent class.

    Example:
        >>> class_means(torch.tensor([[2.0], [4.0], [5.0]]), torch.tensor([0, 0, 2])).tolist()
        [[3.0], [0.0], [5.0]]
    """
    counts = torch.bincount(labels)
    sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, labels, values)
    return sums / counts.clamp_min(1)[:, None]


def whitening(
    deviations: torch.Tensor, *, ridge: float, total: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ``W [D, D]`` with ``W W^T = S^-1``, S the regularized second moment of deviations.

    The squared Mahalanobis distance of x and y is ``|(x - y) W|^2``.

    Args:
        deviations: ``[N, D]``.
        ridge: Fraction of the mean variance that is added to the diagonal.
        total: Deviations ``[N, D]`` whose mean variance that is; by default the same ones.
    """
    moment = deviations.T @ deviations / max(len(deviations), 1)
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    variance = (deviations if total is None else total).square().mean()
    if not variance > 0:
        return eye
    lower = torch.linalg.cholesky(moment + ridge * variance * eye)
    inverse: torch.Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
    return inverse.T


def squared_distances(values: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Return squared Euclidean distances ``[B, K]`` between rows."""
    return torch.cdist(values, centers.to(values)).square()
