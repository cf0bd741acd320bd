"""Keep a pseudo-label where the neighbors have the same one."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.pseudo_labelers import PseudoLabeler
from trainables.neighbors import neighbors


class KNNAgreement(PseudoLabeler):
    """Reliable pseudo-labels: keep a sample whose nearest neighbors share its cluster.

    ``beta_i = #{j in kNN(i) : a_j = a_i} / k`` with cosine neighbors; ``weight_i = 1`` where
    ``beta_i`` passes the threshold, else 0.

    Args:
        num_neighbors: k >= 1, at most the neighbors there are. The source takes 100 of 50,000
            images; a pool holds hundreds.
        threshold: In [0, 1]. The source takes 0.99 on CIFAR, 0.90 on STL-10 and ImageNet-10.
        variant: ``"paper"``: the sample itself is no neighbor, keep ``beta > threshold``;
            ``"official"``: it is counted, keep ``beta >= threshold``.

    Shapes:
        assignments ``[S]`` int64, features ``[S, D]`` -> pseudo_labels ``[S]`` int64, weights
        ``[S]`` float32, 0 or 1.

    Empty in, empty out. A single sample has no neighbor: beta is 0 (paper) or 1 (official).

    Source:
        Niu et al. 2022, "SPICE: Semantic Pseudo-labeling for Image Clustering", arXiv:2103.09382,
        section 3.4; reference code niuchuangnn/SPICE, spice/model/heads/sem_head_multi.py. We leave
        out two steps of that code: the gate on the head's top score (a clusterer has none), and
        cutting every cluster to the size of the smallest (wrong under a long tail, and one starved
        cluster would empty all).

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
        # counts against a count: dividing first would round 18 / 20 past 0.9
        wanted = self.threshold * near.shape[1]
        kept = same >= wanted if with_self else same > wanted
        return assignments.clone(), kept.float()
