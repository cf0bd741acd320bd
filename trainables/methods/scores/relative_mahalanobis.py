"""Relative Mahalanobis distance."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.scores import Score
from trainables.methods.scores.mahalanobis import (
    class_means,
    left_out_distances,
    prepare,
    squared_distances,
    whitening,
)


class RelativeMahalanobis(Score):
    """Mahalanobis distance to the overall mean minus that to the nearest class mean.

    ``confidence = max_c [M_0(z) - M_c(z)]`` with ``M_c(z) = (z - mu_c)^T S^-1 (z - mu_c)`` under
    the pooled within-class covariance, and M_0 the same for the mean and covariance of all samples.
    Directions without class information cancel, which improves the detection of near-OOD samples.
    So do those outside of the samples' span, where there are fewer samples than dimensions, because
    both covariances have the same ridge there. (Each with a fraction of its own variance, the
    difference would be about ``D / ridge`` times the loss of variance by the class means.)

    Args:
        normalize: L2-normalize features first, because feature norms depend on class frequency; the
            paper does not.
        ridge: Fraction of the mean variance of all samples that is added to the diagonal of both
            covariances, > 0. Default 1e-3, this project's choice.

    Shapes:
        fit: features [N, D], labels [N] int64 -> state (float64). call: features [B, D], state ->
        confidence [B], unbounded, float32 (float64 for float64 input).
        Higher values indicate a known class.

    An absent class has no mean and no effect. With a single training sample both terms are equal,
    so the confidence is 0 everywhere.

    Raises:
        ValueError: There are no training samples.

    Source:
        Ren et al. 2021, "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
        arXiv 2106.09022, eq. (3), with the opposite sign. pytorch-ood 0.4 does not divide the
        scatter matrix by N, which changes only the scale.

    Example:
        >>> features = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> score = RelativeMahalanobis(normalize=False, ridge=1e-9)
        >>> state = score.fit(features=features, labels=torch.tensor([0, 0, 1, 1]))
        >>> score(features=torch.tensor([[1.0], [6.0]]), state=state).round(decimals=3)
        tensor([  0.9620, -25.0000])
    """

    normalize: bool = True
    ridge: Annotated[float, Field(gt=0), Range(1e-4, 1e-1, log=True)] = 1e-3

    def fit(self, *, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute class means, pooled covariance, and mean and covariance of all samples."""
        if len(labels) == 0:
            raise ValueError(
                "scores/relative_mahalanobis needs training samples to fit; received none"
            )
        values = prepare(features, normalize=self.normalize)
        means, mean = class_means(values, labels), values.mean(dim=0, keepdim=True)
        within = whitening(values - means[labels], ridge=self.ridge, total=values - mean)
        overall = whitening(values - mean, ridge=self.ridge)
        return {
            "means": means[labels.unique()] @ within,
            "whitener": within,
            "overall_mean": mean @ overall,
            "overall_whitener": overall,
        }

    def __call__(self, *, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        values = prepare(features, normalize=self.normalize)
        to_classes = squared_distances(values @ state["whitener"].to(values), state["means"])
        to_overall = squared_distances(
            values @ state["overall_whitener"].to(values), state["overall_mean"]
        )
        relative = to_overall[:, 0] - to_classes.amin(dim=1)
        return relative.to(torch.promote_types(features.dtype, torch.float32))

    def leave_out(
        self, *, features: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor
    ) -> torch.Tensor:
        """Return the confidence of each training sample by a fit without its group, exactly."""
        values = prepare(features, normalize=self.normalize)
        to_classes = left_out_distances(values, labels, groups, ridge=self.ridge, of_total=True)
        one_class = torch.zeros_like(labels)
        to_overall = left_out_distances(values, one_class, groups, ridge=self.ridge)
        relative = to_overall[:, 0] - to_classes.amin(dim=1)
        return relative.to(torch.promote_types(features.dtype, torch.float32))
