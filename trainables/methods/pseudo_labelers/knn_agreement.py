"""Pseudo-labels by cluster, filtered by agreement with nearest neighbors."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.features.neighbors import neighbors
from trainables.methods.method import Range
from trainables.methods.pseudo_labelers import PseudoLabeler


class KNNAgreement(PseudoLabeler):
    """Clusters as pseudo-labels of samples whose nearest neighbors are in the same cluster.

    ``beta_i = #{j in kNN(i) : a_j = a_i} / k`` with neighbors by cosine; ``weight_i`` is 1 if
    ``beta_i`` exceeds the threshold, otherwise 0.

    Args:
        num_neighbors: k >= 1, cut to the number of other samples. The source takes 100 of 50,000
            images; a pool has hundreds of images.
        threshold: In [0, 1]. The source takes 0.99 for CIFAR, 0.90 for STL-10 and ImageNet-10.
        variant: ``"paper"`` excludes the sample from its neighbors and requires
            ``beta > threshold``; ``"official"`` includes it and requires ``beta >= threshold``.

    Shapes:
        assignments ``[S]`` int64, features ``[S, D]`` -> pseudo_labels ``[S]`` int64, weights
        ``[S]`` float32, 0 or 1.

    S may be 0. A single sample has no neighbor, so beta is 0 (paper) or 1 (official).

    Source:
        Niu et al. 2022, "SPICE: Semantic Pseudo-labeling for Image Clustering", arXiv:2103.09382,
        section 3.4; reference code niuchuangnn/SPICE, spice/model/heads/sem_head_multi.py. Two
        steps of the reference code are left out: the threshold on the head's top score, which a
        clusterer does not have, and cutting every cluster to the size of the smallest cluster,
        which is unsuitable for long-tailed data.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
        >>> KNNAgreement(num_neighbors=2, threshold=0.6)(
        ...     assignments=torch.tensor([0, 0, 0, 1]), features=features, num_known=1)
        (tensor([0, 0, 0, 1]), tensor([1., 1., 1., 0.]))
    """

    num_neighbors: Annotated[int, Field(ge=1), Range(5, 50)] = 20
    threshold: Annotated[float, Field(ge=0, le=1), Range(0.5, 0.95)] = 0.9
    variant: Literal["paper", "official"] = "paper"

    def __call__(
        self, *, assignments: torch.Tensor, features: torch.Tensor, num_known: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with_self = self.variant == "official"
        near = neighbors(features, num_neighbors=self.num_neighbors, with_self=with_self)
        same = (assignments[near] == assignments[:, None]).sum(dim=1)
        # compare counts, because 18 / 20 may round to another number than 0.9
        wanted = self.threshold * near.shape[1]
        kept = same >= wanted if with_self else same > wanted
        return assignments.clone(), kept.float()
