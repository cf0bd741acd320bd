"""Semi-supervised k-means."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.features.kmeans import constrained_kmeans, draw_uniforms, prepare, renumber
from trainables.methods.clusterers import Clusterer


class ConstrainedKMeans(Clusterer):
    """Semi-supervised k-means, in which labelled samples are fixed to the cluster of their class.

    ``min sum_i |x_i - m_{a_i}|^2`` with ``a_i = y_i`` where the label is known. Initial centers are
    the class means and, by k-means++, unlabelled samples; the best of ``n_init`` restarts is
    returned.

    Args:
        n_init: Restarts, at least 1; 10 as the default of the reference class (its script takes
            100).
        iterations: Maximum Lloyd iterations per restart; 100 as the default of the reference class
            (its script takes 200).
        normalize: L2-normalize features first, as the reference code; after long-tailed training
            the norm of a feature depends on the frequency of its class.

    Shapes:
        features ``[N, D]``, labels ``[N]`` int64 (-1 = unknown) -> assignments ``[N]`` int64 in
        ``0..num_clusters-1``; c < C is known class c (C = 1 + largest label), new clusters are
        numbered from C by decreasing size.

    Computed in float64 and deterministic given the generator. Without samples the result is empty.
    The index of a known class without labelled samples is unused.

    Raises:
        ValueError: ``num_clusters`` is below C, there are fewer unlabelled samples than new
            clusters, or a feature is not finite.

    Source:
        Vaze et al. 2022, "Generalized Category Discovery", arXiv:2201.02609, section 3.2; reference
        code sgvaze/generalized-category-discovery, methods/clustering/
        faster_mix_k_means_pytorch.py. An empty cluster is re-initialized at the sample farthest
        from its center; in the reference code its center becomes NaN.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> ConstrainedKMeans()(features=features, labels=torch.tensor([0, -1, -1, -1]),
        ...     num_clusters=2, generator=torch.Generator().manual_seed(0))
        tensor([0, 0, 1, 1])
    """

    n_init: Annotated[int, Field(ge=1)] = 10
    iterations: Annotated[int, Field(ge=1)] = 100
    normalize: bool = True

    def __call__(
        self,
        *,
        features: torch.Tensor,
        labels: torch.Tensor,
        num_clusters: int,
        generator: torch.Generator,
    ) -> torch.Tensor:
        owner = "clusterers/constrained_kmeans"
        prepared = prepare(
            features, labels, num_clusters=num_clusters, normalize=self.normalize, owner=owner
        )
        unlabelled = int((labels < 0).sum())
        if not len(labels):
            return labels.clone()
        if unlabelled < prepared.num_new:
            raise ValueError(
                f"{owner}: {prepared.num_new} new clusters need at least {prepared.num_new} "
                f"unlabelled samples; received {unlabelled}; lower num_clusters or add samples"
            )
        # without new clusters the initialization is deterministic, so one restart suffices
        restarts = self.n_init if prepared.num_new else 1
        result = constrained_kmeans(
            prepared.features,
            prepared.labels,
            num_clusters=len(prepared.present) + prepared.num_new,
            uniforms=draw_uniforms(restarts, prepared.num_new, generator),
            iterations=self.iterations,
        )
        classes = torch.cat([prepared.present, prepared.present.new_full((prepared.num_new,), -1)])
        return renumber(result.assignments, classes, prepared.num_known)
