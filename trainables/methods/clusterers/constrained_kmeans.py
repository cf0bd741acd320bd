"""k-means in which labelled samples stay in their class."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.kmeans import constrained_kmeans, draw_uniforms, prepare, renumber
from trainables.methods.clusterers import Clusterer


class ConstrainedKMeans(Clusterer):
    """Semi-supervised k-means: labelled samples stay in their class, the rest finds a place.

    ``min sum_i |x_i - m_{a_i}|^2`` with ``a_i = y_i`` where the label is known. First centers: the
    class means, then k-means++ on the unlabelled samples; the best of ``n_init`` restarts.

    Args:
        n_init: Restarts, at least 1; 10 as the class in the reference code (its script takes 100).
        iterations: Most Lloyd iterations per restart; 100 as the class (its script takes 200).
        normalize: Put features on the unit sphere first, as the reference does: under a long tail
            the length of a feature says how frequent its class was.

    Shapes:
        features ``[N, D]``, labels ``[N]`` int64 (-1 = unknown) -> assignments ``[N]`` int64 in
        ``0..num_clusters-1``: c < C is known class c (C = 1 + largest label), the new clusters
        follow from C, largest first.

    Computed in float64; equal generators give equal results. No sample at all gives an empty
    result. The number of a known class without labelled samples stays unused.

    Raises:
        ValueError: ``num_clusters`` is below C, there are fewer unlabelled samples than new
            clusters, or a feature is not finite.

    Source:
        Vaze et al. 2022, "Generalized Category Discovery", arXiv:2201.02609, section 3.2; reference
        code sgvaze/generalized-category-discovery, methods/clustering/
        faster_mix_k_means_pytorch.py. There an empty cluster becomes NaN; here it restarts at the
        sample farthest from its center.

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
        given = prepare(
            features, labels, num_clusters=num_clusters, normalize=self.normalize, owner=owner
        )
        unlabelled = int((labels < 0).sum())
        if not len(labels):
            return labels.clone()
        if unlabelled < given.num_new:
            raise ValueError(
                f"{owner}: {given.num_new} new clusters need as many unlabelled samples; "
                f"received {unlabelled}; lower num_clusters or gather more"
            )
        # without a new cluster there is nothing to draw: all restarts would be one
        restarts = self.n_init if given.num_new else 1
        found = constrained_kmeans(
            given.features,
            given.labels,
            num_clusters=len(given.present) + given.num_new,
            uniforms=draw_uniforms(restarts, given.num_new, generator),
            iterations=self.iterations,
        )
        classes = torch.cat([given.present, given.present.new_full((given.num_new,), -1)])
        return renumber(found.assignments, classes, given.num_known)
