from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.scores import Score


class Mahalanobis(Score):
    """Closeness to the nearest class mean under the covariance that all classes share.

    ``confidence = -min_c (z - mu_c)^T S^-1 (z - mu_c)`` with
    ``S = 1/N sum_i (z_i - mu_{y_i}) (z_i - mu_{y_i})^T + ridge tr/D I``, tr the trace of the first
    part. Pooling lends rare classes the spread of frequent ones; the unit length of z undoes the
    tie between feature length and class frequency.

    Args:
        normalize: Scale features to length 1 first. The long-tail form; the original does not.
        ridge: Share of the mean variance that is added to every variance, > 0. Keeps S invertible
            with fewer samples than dimensions. 1e-3 is our choice.

    Shapes:
        fit: features [N, D], labels [N] int64 -> state (float64). call: features [B, D], state ->
        confidence [B] <= 0, float32 (float64 for float64 input). Higher = more surely known.
        All arithmetic is in float64: with float32 the inverse of S can lose every digit.

    An absent class has no mean and attracts nothing. A single sample has S = I.

    Raises:
        ValueError: There is no sample to fit.

    Source:
        Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", arXiv 1807.03888, eq. (2) (penultimate layer, no input noise);
        normalised and pooled for the long tail: arXiv 2605.17799. pytorch-ood's is the same up to
        a constant factor for ``normalize=False`` and a vanishing ridge.

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
        """Measure class means and the pooled covariance on training samples."""
        if len(labels) == 0:
            raise ValueError("scores/mahalanobis needs training samples to fit; received none")
        values = prepared(features, normalize=self.normalize)
        means = class_means(values, labels)
        whitener = whitening(values - means[labels], ridge=self.ridge)
        return {"means": means[labels.unique()] @ whitener, "whitener": whitener}

    def __call__(self, *, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        values = prepared(features, normalize=self.normalize)
        distance = squared_distances(values @ state["whitener"].to(values), state["means"])
        return -distance.amin(dim=1).to(torch.promote_types(features.dtype, torch.float32))


def prepared(features: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """Return features in float64, scaled to length 1 if asked for; a zero feature stays zero."""
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


def whitening(deviations: torch.Tensor, *, ridge: float) -> torch.Tensor:
    """Return ``W [D, D]`` with ``W W^T = S^-1``, S the ridged second moment of the deviations.

    ``|(x - y) W|^2`` is then the squared Mahalanobis distance of x and y.
    """
    moment = deviations.T @ deviations / max(len(deviations), 1)
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    variance = moment.diagonal().mean()
    if not variance > 0:
        return eye
    lower = torch.linalg.cholesky(moment + ridge * variance * eye)
    inverse: torch.Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
    return inverse.T


def squared_distances(values: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Return squared Euclidean distances ``[B, K]`` between rows."""
    return torch.cdist(values, centers.to(values)).square()
