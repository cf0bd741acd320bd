"""Plain k-means."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.kmeans import constrained_kmeans, draw_uniforms, prepare, renumber
from trainables.matching import match_clusters
from trainables.methods.clusterers import Clusterer


class KMeans(Clusterer):
    """k-means on all samples alike; labels only give the clusters their names afterwards.

    ``min sum_i |x_i - m_{a_i}|^2``, k-means++ start, the best of ``n_init`` restarts. Then the
    known classes are matched one to one with clusters (Hungarian, on the labelled samples).

    Args:
        n_init: Restarts, at least 1; 10 as scikit-learn with random starts.
        iterations: Most Lloyd iterations per restart; 300 as scikit-learn.
        normalize: Put features on the unit sphere first (spherical start, Euclidean updates).

    Shapes:
        features ``[N, D]``, labels ``[N]`` int64 (-1 = unknown) -> assignments ``[N]`` int64 in
        ``0..num_clusters-1``: c < C is the cluster matched to known class c (C = 1 + largest
        label), the others follow from C, largest first.

    Computed in float64; equal generators give equal results. No sample at all gives an empty
    result. The number of a known class without labelled samples stays unused.

    Raises:
        ValueError: ``num_clusters`` is below C, there are fewer samples than clusters, or a feature
            is not finite.

    Source:
        Lloyd 1982; Arthur and Vassilvitskii 2007, "k-means++"; Kuhn 1955 for the match.

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
        given = prepare(
            features, labels, num_clusters=num_clusters, normalize=self.normalize, owner=owner
        )
        clusters = len(given.present) + given.num_new
        if not len(labels):
            return labels.clone()
        if len(labels) < clusters:
            raise ValueError(
                f"{owner}: {clusters} clusters need as many samples; received {len(labels)}; "
                "lower num_clusters or gather more"
            )
        found = constrained_kmeans(
            given.features,
            torch.full_like(labels, -1),
            num_clusters=clusters,
            uniforms=draw_uniforms(self.n_init, clusters, generator),
            iterations=self.iterations,
        ).assignments
        match = match_clusters(found, given.labels, num_clusters=clusters)
        # position -1 (a cluster without a class) reads the appended -1
        classes = torch.cat([given.present, given.present.new_full((1,), -1)])[match]
        return renumber(found, classes, given.num_known)
