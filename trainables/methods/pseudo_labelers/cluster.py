"""Pseudo-labels by cluster."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from trainables.methods.method import Choice
from trainables.methods.pseudo_labelers import PseudoLabeler


class Cluster(PseudoLabeler):
    """Clusters as pseudo-labels, with uniform weights or weights that decrease with distance.

    ``weight_i = 1`` (uniform) or ``1 - d_own / d_other`` (distance), where ``d_own`` is the
    Euclidean distance to the mean of the sample's cluster and ``d_other`` that to the nearest other
    mean. The weight is 1 at the center and 0 at the border to another cluster and beyond.

    Args:
        weighting: ``"uniform"`` (k-means as commonly used) or ``"distance"``.

    Shapes:
        assignments ``[S]`` int64, features ``[S, D]`` -> pseudo_labels ``[S]`` int64, weights
        ``[S]`` float32 in [0, 1]. S may be 0; with a single cluster all weights are 1.

    Source:
        Lee 2013, "Pseudo-Label" (ICML workshop); the distance weight is the simplified silhouette
        of Hruschka et al. 2004, clamped at 0.

    Example:
        >>> features = torch.tensor([[0.0], [2.0], [10.0]])
        >>> Cluster(weighting="distance")(
        ...     assignments=torch.tensor([0, 0, 1]), features=features, num_known=1)
        (tensor([0, 0, 1]), tensor([0.9000, 0.8750, 1.0000]))
    """

    weighting: Annotated[Literal["uniform", "distance"], Choice(("uniform", "distance"))] = (
        "uniform"
    )

    def __call__(
        self, *, assignments: torch.Tensor, features: torch.Tensor, num_known: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.weighting == "uniform":
            weights = torch.ones(len(assignments), device=features.device)
        else:
            weights = _relative_nearness(features, assignments)
        return assignments.clone(), weights


def _relative_nearness(features: torch.Tensor, assignments: torch.Tensor) -> torch.Tensor:
    """Return ``1 - d_own / d_other`` per sample, clamped to [0, 1]."""
    present, cluster_index = torch.unique(assignments, return_inverse=True)
    if len(present) < 2:
        return torch.ones(len(assignments), device=features.device)
    # float64, because distances are differences of means of many samples
    values = features.double()
    centers = values.new_zeros(len(present), values.shape[1]).index_add_(0, cluster_index, values)
    centers = centers / torch.bincount(cluster_index, minlength=len(present))[:, None]
    distances = torch.cdist(values, centers)
    nearest = distances.gather(1, cluster_index[:, None]).squeeze(1)
    other = distances.scatter(1, cluster_index[:, None], torch.inf).amin(dim=1)
    # with equal centers, the sample is on the border of both clusters
    ratio = torch.where(other > 0, nearest / other.clamp(min=torch.finfo(other.dtype).tiny), 1.0)
    return (1 - ratio).clamp(0, 1).float()
