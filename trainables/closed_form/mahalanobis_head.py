"""Head module of one Gaussian per class: negative squared distances under a metric per class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.closed_form.mahalanobis import signed_power
from trainables.functional.l2_normalize import l2_normalize
from trainables.models.growth import check_prototypes, grow_rows


class MahalanobisHead(nn.Module):
    """Mahalanobis head: logits ``-scale d_c(t(x), mu_c)``, ``t(x)`` of length 1.

    ``d_c`` is the metric number ``metric_of[c]``: ``|d v|^2 / g - sum_k r_k (q_k . d v)^2``, with
    directions q_k that belong to that metric. The means are parameters, the rest are buffers. At
    first there is one metric, the squared distance.

    Args:
        num_features: D.
        num_classes: C.
        metrics: Number of metrics.
        directions: Number of directions of all metrics together.
        power: Exponent of ``t(x) = sign(x) |x|^power``, before its length becomes 1.
    """

    metric_of: Tensor
    deviation: Tensor
    precision: Tensor
    basis: Tensor
    reduction: Tensor
    basis_metric: Tensor
    scale: Tensor

    def __init__(
        self, num_features: int, num_classes: int, *, metrics: int, directions: int, power: float
    ) -> None:
        super().__init__()
        self.power = power
        start = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(l2_normalize(start))
        self.register_buffer("metric_of", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("deviation", torch.ones(metrics, num_features))
        self.register_buffer("precision", torch.ones(metrics))
        self.register_buffer("basis", torch.zeros(directions, num_features))
        self.register_buffer("reduction", torch.zeros(directions))
        self.register_buffer("basis_metric", torch.zeros(directions, dtype=torch.int64))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``, at most 0."""
        inputs = self._transformed(features)
        factors = (self.deviation.square() * self.precision[:, None])[self.metric_of]
        products = nn.functional.linear(inputs, factors * self.weight)
        lengths = nn.functional.linear(inputs.square(), factors)
        distances = lengths - 2 * products + (factors * self.weight.square()).sum(dim=1)
        if len(self.basis):
            distances = distances - self._along_directions(inputs)
        return -self.scale * distances

    def _along_directions(self, inputs: Tensor) -> Tensor:
        """Return what the directions take from each class's distance ``[B, C]``."""
        basis = self.basis * self.deviation[self.basis_metric]
        seen, centers = inputs @ basis.T, self.weight @ basis.T
        taken = []
        for center, metric in zip(centers, self.metric_of, strict=True):
            own = self.basis_metric == metric
            taken.append((seen[:, own] - center[own]).square() @ self.reduction[own])
        return torch.stack(taken, dim=1)

    def _transformed(self, features: Tensor) -> Tensor:
        return l2_normalize(signed_power(features, self.power))

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. A new class has the metric of the nearest old mean.

        Prototypes are features, as with other heads; ``new_bias`` is ignored.
        """
        old = self.weight.detach()
        if prototypes is not None:
            check_prototypes(prototypes, num_new, old.shape[1])
            prototypes = self._transformed(prototypes.to(old))
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
        nearest = torch.cdist(self.weight[len(old) :], old).argmin(dim=1)
        self.metric_of = torch.cat([self.metric_of, self.metric_of[nearest]])
