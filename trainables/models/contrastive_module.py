"""Projector, prototypes, queue and class means of contrastive losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainables.functional.class_means import ClassMeans
from trainables.functional.class_weights import full_precision
from trainables.functional.contrast import EMPTY
from trainables.models.projectors import Projector


class ContrastiveModule(nn.Module):
    """Projector, prototypes, queue and class means of a contrastive loss, dropped after training.

    The forward pass maps features ``[B, D]`` to projections ``[B, P]`` of unit norm by two linear
    layers with a ReLU and a hidden width of D. `supply` returns the loss's other inputs.

    Args:
        num_features: D.
        dimension: P.
        views: Augmented views of each image in a batch.
        num_prototypes: Number of learned unit vectors, one per class; 0 for none.
        queue_size: Number of earlier projections in the queue; 0 for none.
        num_means: Number of running class means of projections; 0 for none.

    Example:
        >>> companion = ContrastiveModule(4, dimension=3, num_prototypes=2)
        >>> projections = companion(torch.zeros(5, 4))
        >>> {k: list(v.shape) for k, v in companion.supply(projections, torch.zeros(5)).items()}
        {'projections': [5, 3], 'prototypes': [2, 3]}
    """

    queue: Tensor
    queue_labels: Tensor
    oldest: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        dimension: int,
        views: int = 1,
        num_prototypes: int = 0,
        queue_size: int = 0,
        num_means: int = 0,
    ) -> None:
        super().__init__()
        self.views = views
        self.projector = Projector(
            num_features,
            hidden_dimension=num_features,
            output_dimension=dimension,
            batch_norm=False,
        )
        self.has_prototypes, self.queue_size = num_prototypes > 0, queue_size
        if num_prototypes:
            self.prototypes = nn.Parameter(normalize(torch.randn(num_prototypes, dimension), dim=1))
        if queue_size:
            self.register_buffer("queue", torch.zeros(queue_size, dimension))
            self.register_buffer("queue_labels", torch.full((queue_size,), EMPTY))
            self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))
        self.means = ClassMeans(num_means, dimension=dimension) if num_means else None

    def start_epoch(self) -> None:
        """Drop projections from the class means that are too old in a new epoch."""
        if self.means is not None:
            self.means.start_epoch()

    def forward(self, features: Tensor) -> Tensor:
        """Return projections ``[B, P]`` of unit norm, float32 or better."""
        return normalize(full_precision(self.projector(features)), dim=1)

    def supply(self, projections: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the loss's inputs by name, and add the projections to queue and class means.

        The returned queue does not contain these projections; the class means do.

        Args:
            projections: Projections of the whole batch of all workers ``[B, P]``.
            labels: Class labels ``[B]`` of the projections.
        """
        supplied = {"projections": projections}
        if self.has_prototypes:
            supplied["prototypes"] = normalize(full_precision(self.prototypes), dim=1)
        if self.queue_size:
            supplied["queue"] = self.queue.clone()
            supplied["queue_labels"] = self.queue_labels.clone()
            self._remember(projections.detach(), labels)
        if self.means is not None:
            self.means.observe(projections.detach(), labels)
            supplied["class_means"] = self.means()
        return supplied

    @torch.no_grad()
    def _remember(self, projections: Tensor, labels: Tensor) -> None:
        """Replace the oldest projections in the queue by the newest."""
        newest = projections[-self.queue_size :].to(self.queue)
        places = (self.oldest + torch.arange(len(newest), device=newest.device)) % self.queue_size
        self.queue[places] = newest
        self.queue_labels[places] = labels[-self.queue_size :].to(self.queue_labels)
        self.oldest.add_(len(newest)).remainder_(self.queue_size)
