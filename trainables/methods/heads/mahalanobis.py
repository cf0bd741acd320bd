"""Head of Mahalanobis distances to class means."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head


class Mahalanobis(Head):
    """Negative Mahalanobis distances to class means, under a metric for each class.

    ``logits_c = -s d_c(t(x), mu_c)`` with ``t(x) = u / |u|`` and ``u = sign(x) |x|^power``.

    The rebalancer ``fecam`` builds this head with the metrics of the classes. In ``classify.head``
    there is one metric, the squared distance, and the means are trained by gradient. A class that
    is appended later has the metric of the nearest class.

    Args:
        metrics: Number of metrics, >= 1.
        directions: Number of directions of all metrics together.
        power: Exponent of each feature, in (0, 1].

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``, at most 0.

    Source:
        Goswami et al. 2023, "FeCAM: Exploiting the Heterogeneity of Class Distributions in
        Exemplar-Free Continual Learning", arXiv 2309.14062, eqs. (4) to (9).

    Example:
        >>> head = Mahalanobis().build(2, 2)
        >>> head.weight.data = torch.eye(2)
        >>> head(torch.tensor([[3.0, 0.0]])).tolist()
        [[-0.0, -2.0]]
    """

    metrics: Annotated[int, Field(ge=1)] = 1
    directions: Annotated[int, Field(ge=0)] = 0
    power: Annotated[float, Field(gt=0, le=1)] = 1.0

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.closed_form.mahalanobis_head import MahalanobisHead

        return MahalanobisHead(
            num_features,
            num_classes,
            metrics=self.metrics,
            directions=self.directions,
            power=self.power,
        )
