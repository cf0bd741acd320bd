"""k-means."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.features.kmeans import constrained_kmeans, draw_uniforms, prepare, renumber
from trainables.features.matching import match_clusters
from trainables.methods.clusterers import Clusterer


class KMeans(Clusterer):
    """k-means without labels; afterwards known classes are matched to clusters.

    ``min sum_i |x_i - m_{a_i}|^2`` with k-means++ initialization; the best of ``n_init`` restarts.
    Then known classes are matched one to one with clusters by the Hungarian algorithm on the
    labelled samples.

    Args:
        n_init: Restarts, at least 1; 10 as scikit-learn with random initialization.
        iterations: Maximum Lloyd iterations per restart; 300 as scikit-learn.
        normalize: L2-normalize features first; centers are not normalized.

    Shapes:
        features ``[N, D]``, labels ``[N]`` int64 (-1 = unknown) -> assignments ``[N]`` int64 in
        ``0..num_clusters-1``; c < C is the cluster matched to known class c (C = 1 + largest
        label), other clusters are numbered from C by decreasing size.

    Computed in float64 and deterministic given the generator. Without samples the result is empty.
    The index of a known class without labelled samples is unused.

    Raises:
        ValueError: ``num_clusters`` is below C, there are fewer samples than clusters, or a feature
            is not finite.

    Source:
        Lloyd 1982; Arthur and Vassilvitskii 2007, "k-means++"; Kuhn 1955 (Hungarian algorithm).

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> KMeans()(features=features, labels=torch.tensor([-1, -1, -1, 0]),
        ...     num_clusters=2, generator=torch.Generator().manual_seed(0))
        tensor([1, 1, 0, 0])
    """

    n_init: Annotated[int, Field(ge=1)] = 10
    iterations: Annotated[int, Field(ge=1)] = 300
    normalize: bool = True

    def __call__(
        self,
        *,
        features: torch.Tensor,
        labels: torch.Tensor,
        num_clusters: int,
        generator: torch.Generator,
    ) -> torch.Tensor:
        owner = "clusterers/kmeans"
        prepared = prepare(
            features, labels, num_clusters=num_clusters, normalize=self.normalize, owner=owner
        )
        clusters = len(prepared.present) + prepared.num_new
        if not len(labels):
            return labels.clone()
        if len(labels) < clusters:
            raise ValueError(
                f"{owner}: {clusters} clusters need at least {clusters} samples; received "
                f"{len(labels)}; lower num_clusters or add samples"
            )
        assignments = constrained_kmeans(
            prepared.features,
            torch.full_like(labels, -1),
            num_clusters=clusters,
            uniforms=draw_uniforms(self.n_init, clusters, generator),
            iterations=self.iterations,
        ).assignments
        match = match_clusters(assignments, prepared.labels, num_clusters=clusters)
        # a cluster without a class has match -1, which indexes the appended -1
        classes = torch.cat([prepared.present, prepared.present.new_full((1,), -1)])[match]
        return renumber(assignments, classes, prepared.num_known)
