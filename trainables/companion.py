"""What a contrastive loss trains beside the model, and remembers: projector, prototypes, queue."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainables.class_means import ClassMeans
from trainables.class_weights import full_precision
from trainables.contrast import EMPTY
from trainables.projectors import Projector


class Companion(nn.Module):
    """What a contrastive loss trains beside the model, and what it remembers; dropped afterwards.

    Called with features ``[B, D]`` it gives projections ``[B, P]`` of unit norm: linear, ReLU,
    linear, as wide inside as the features. `supply` gives what else the loss needs.

    Args:
        num_features: D.
        dimension: P.
        views: Random views of each image that the loss wants in a batch.
        num_prototypes: Learned directions, one per class; 0 for none.
        queue_size: How many earlier projections are remembered; 0 for none.
        num_means: Means of projections, one per class; 0 for none.

    Example:
        >>> companion = Companion(4, dimension=3, num_prototypes=2)
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
        """Forget what is too old in a new epoch."""
        if self.means is not None:
            self.means.start_epoch()

    def forward(self, features: Tensor) -> Tensor:
        """Return projections ``[B, P]`` of unit norm, float32 or better."""
        return normalize(full_precision(self.projector(features)), dim=1)

    def supply(self, projections: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return a loss's tensors by name, and remember these projections.

        The queue is that before them; the class means are those with them.

        Args:
            projections: Those of the whole batch, on every worker alike ``[B, P]``.
            labels: Their classes ``[B]``.
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
        """Put the newest projections in the place of the oldest."""
        newest = projections[-self.queue_size :].to(self.queue)
        places = (self.oldest + torch.arange(len(newest), device=newest.device)) % self.queue_size
        self.queue[places] = newest
        self.queue_labels[places] = labels[-self.queue_size :].to(self.queue_labels)
        self.oldest.add_(len(newest)).remainder_(self.queue_size)
