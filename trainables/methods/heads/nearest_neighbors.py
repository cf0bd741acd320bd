"""Head of nearest neighbors."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head


class NearestNeighbors(Head):
    """Votes of the k nearest stored images by cosine similarity.

    ``logits_c = s log(e^(-2/T) + sum_i e^((cos_i - 1)/T))`` over those of the k nearest images that
    are of class c.

    The rebalancer ``knn`` builds this head with all training images. In ``classify.head`` there is
    one vector per class, trained by gradient. A class that is appended later has one vector.

    Args:
        k: Number of neighbors, >= 1.
        temperature: T, > 0; with a small one the nearest image decides.
        size: Number of stored images beyond one for each class.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``.

    Source:
        Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
        arXiv 1805.01978, section 3.4, with T = 0.07. The first term, which keeps logits finite, is
        this project's.

    Example:
        >>> head = NearestNeighbors(k=1, temperature=0.5).build(2, 2)
        >>> head.weight.data = torch.eye(2)
        >>> head(torch.tensor([[3.0, 0.0]])).argmax(1).tolist()
        [0]
    """

    k: Annotated[int, Field(ge=1)] = 20
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.07
    size: Annotated[int, Field(ge=0)] = 0

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.closed_form.neighbors import NearestNeighborsHead

        return NearestNeighborsHead(
            num_features, num_classes, size=self.size, k=self.k, temperature=self.temperature
        )
