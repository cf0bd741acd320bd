from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.features.matching import silhouette
from trainables.methods.metrics import Metric


class FeatureQuality(Metric):
    """How far features alone, without a head, tell classes apart.

    With unit features u: ``knn_accuracy`` = share of samples whose label is the most frequent one
    among their k nearest others; ``silhouette`` = mean of (b - a) / max(a, b), a the mean distance
    to the own class, b to the nearest other one; ``alignment`` = mean ``|u_i - u_j|^2`` over pairs
    of one class; ``uniformity`` = log of the mean of ``exp(-2 |u_i - u_j|^2)`` over all pairs;
    ``intra_inter`` = mean distance to the own class mean / mean distance between class means.

    Args:
        k: Neighbours, >= 1, at most N - 1 are used; 20 is customary for self-supervised trunks.
        max_samples: Beyond this number, evenly spaced samples are measured: all pairs cost N^2.

    Shapes:
        features [N, D], labels [N] int64 -> ``features/...``; knn_accuracy in [0, 1] and silhouette
        in [-1, 1]: higher = better; alignment, uniformity and intra_inter: lower = better.
        Computed in float64.

    What is not defined is left out: everything with fewer than two samples, silhouette and
    intra_inter with one class, silhouette with a class per sample, alignment without a pair.
    In a draw of votes the smaller label wins.

    Source:
        Wu et al. 2018, arXiv 1805.01978 (nearest neighbours, here without weights); Rousseeuw 1987,
        "Silhouettes"; Wang & Isola 2020, "Understanding Contrastive Representation Learning through
        Alignment and Uniformity", arXiv 2005.10242, with pairs of one class as positives.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> result = FeatureQuality(k=1)(features=features, labels=torch.tensor([0, 0, 1, 1]))
        >>> result["features/knn_accuracy"], result["features/alignment"]
        (1.0, 0.0)
        >>> round(result["features/silhouette"], 4), result["features/intra_inter"]
        (1.0, 0.0)
    """

    k: Annotated[int, Field(ge=1)] = 20
    max_samples: Annotated[int, Field(ge=2)] = 2000

    def __call__(self, *, features: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        if len(labels) < 2:
            return {}
        if len(labels) > self.max_samples:
            chosen = torch.linspace(0, len(labels) - 1, self.max_samples).round().long()
            features, labels = features[chosen], labels[chosen]
        units = torch.nn.functional.normalize(features.detach().double().cpu(), dim=1)
        labels = labels.cpu()
        distances = torch.cdist(units, units, compute_mode="donot_use_mm_for_euclid_dist")
        result = {
            "knn_accuracy": self._knn_accuracy(distances, labels),
            **_pairs(distances, labels),
            **_classes(units, distances, labels),
        }
        return {f"features/{name}": value for name, value in result.items()}

    def _knn_accuracy(self, distances: torch.Tensor, labels: torch.Tensor) -> float:
        """Return leave-one-out accuracy of the vote of the k nearest."""
        others = distances.clone().fill_diagonal_(float("inf"))
        nearest = others.topk(min(self.k, len(labels) - 1), dim=1, largest=False).indices
        votes = torch.zeros(len(labels), int(labels.max()) + 1)
        votes.scatter_add_(1, labels[nearest], torch.ones_like(nearest, dtype=votes.dtype))
        return float((votes.argmax(dim=1) == labels).double().mean())


def _pairs(distances: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return alignment and uniformity over the pairs i < j."""
    first, second = torch.triu_indices(len(labels), len(labels), offset=1)
    squared = distances[first, second].square()
    result = {"uniformity": float((-2 * squared).exp().mean().log())}
    same = labels[first] == labels[second]
    if same.any():
        result["alignment"] = float(squared[same].mean())
    return result


def _classes(
    units: torch.Tensor, distances: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """Return silhouette and the ratio of spread within to distance between classes."""
    classes, own = labels.unique(return_inverse=True)
    if len(classes) == 1:
        return {}
    sums = units.new_zeros(len(classes), units.shape[1]).index_add_(0, own, units)
    means = sums / torch.bincount(own)[:, None]
    within = (units - means[own]).norm(dim=1).mean()
    result = {}
    between = torch.pdist(means).mean()
    if between > 0:
        result["intra_inter"] = float(within / between)
    if len(classes) < len(labels):
        result["silhouette"] = silhouette(distances, own)
    return result
