"""The cluster is the label."""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from trainables.methods.method import Choice
from trainables.methods.pseudo_labelers import PseudoLabeler


class Cluster(PseudoLabeler):
    """The cluster is the label; weights are one or fall with the distance to the center.

    ``weight_i = 1`` (uniform), or ``1 - d_own / d_other`` (distance): the Euclidean distance to
    the mean of the own cluster over that to the nearest other mean; 1 at the center, 0 at the
    border and beyond.

    Args:
        weighting: ``"uniform"`` (k-means as commonly used) or ``"distance"``.

    Shapes:
        assignments ``[S]`` int64, features ``[S, D]`` -> pseudo_labels ``[S]`` int64, weights
        ``[S]`` float32 in [0, 1]. Empty in, empty out; with a single cluster all weights are 1.

    Source:
        Lee 2013, "Pseudo-Label" (ICML workshop); the distance weight is the simplified silhouette
        of Hruschka et al. 2004, cut at 0.

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
    """Return ``1 - d_own / d_other`` per sample, cut to [0, 1]."""
    present, own = torch.unique(assignments, return_inverse=True)
    if len(present) < 2:
        return torch.ones(len(assignments), device=features.device)
    # float64: differences of means of many samples
    values = features.double()
    centers = values.new_zeros(len(present), values.shape[1]).index_add_(0, own, values)
    centers = centers / torch.bincount(own, minlength=len(present))[:, None]
    distances = torch.cdist(values, centers)
    nearest = distances.gather(1, own[:, None]).squeeze(1)
    other = distances.scatter(1, own[:, None], torch.inf).amin(dim=1)
    # equal centers: the sample lies on the border of both
    ratio = torch.where(other > 0, nearest / other.clamp(min=torch.finfo(other.dtype).tiny), 1.0)
    return (1 - ratio).clamp(0, 1).float()
