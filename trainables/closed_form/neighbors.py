"""Votes of the nearest training images: the head module, and its answers out of fold."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainables.closed_form.groups import BLOCK_ELEMENTS
from trainables.closed_form.statistics import Samples
from trainables.functional.class_weights import full_precision
from trainables.functional.l2_normalize import l2_normalize
from trainables.models.growth import check_prototypes, grow_rows


def vote_logits(
    cosines: Tensor, labels: Tensor, *, num_classes: int, k: int, temperature: float
) -> Tensor:
    """Return ``log(e^(-2/T) + sum_i e^((cos_i - 1)/T))`` over the k nearest of each class.

    The first term, a further image of each class in the opposite direction, keeps logits finite.

    Args:
        cosines: Of each image with each of S stored images ``[B, S]``; ``-inf`` for no neighbor.
        labels: Classes of the stored images ``[S]`` int64.
        num_classes: C.
        k: Number of neighbors of all classes together, cut to S.
        temperature: T.

    Example:
        >>> cosines, labels = torch.tensor([[1.0, 0.9, 0.8]]), torch.tensor([0, 1, 1])
        >>> votes = vote_logits(cosines, labels, num_classes=2, k=2, temperature=0.1).exp()
        >>> votes  # 1 and 1/e
        tensor([[1.0000, 0.3679]])
    """
    nearest, places = cosines.topk(min(k, cosines.shape[1]), dim=1)
    votes = ((nearest - 1) / temperature).exp()
    floor = votes.new_full((len(votes), num_classes), math.exp(-2 / temperature))
    return floor.scatter_add(1, labels[places], votes).log()


def leave_out_neighbors(data: Samples, *, num_classes: int, k: int, temperature: float) -> Tensor:
    """Return the logits ``[N, C]`` of each sample by its neighbors outside of its group, exactly.

    Args:
        data: The samples.
        num_classes: C.
        k: See `vote_logits`.
        temperature: See `vote_logits`.

    Example:
        >>> from trainables.closed_form.statistics import samples
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> data = samples(rows, torch.tensor([0, 0, 1]))
        >>> leave_out_neighbors(data, num_classes=2, k=1, temperature=0.1).argmax(1).tolist()
        [0, 0, 0]
    """
    units = l2_normalize(full_precision(data.features))
    rows = torch.arange(len(units), device=units.device)
    parts = []
    for block in rows.split(max(1, BLOCK_ELEMENTS // max(len(units), 1))):
        own = data.groups[block][:, None] == data.groups
        cosines = (units[block] @ units.T).masked_fill(own, -torch.inf)
        parts.append(
            vote_logits(cosines, data.labels, num_classes=num_classes, k=k, temperature=temperature)
        )
    return torch.cat(parts) if parts else units.new_zeros(0, num_classes)


class NearestNeighborsHead(nn.Module):
    """Head of nearest neighbors: logits ``scale`` times the logarithm of their votes.

    One image of each class, or none for a zero row, is a parameter, the other images are a buffer.

    Args:
        num_features: D.
        num_classes: C.
        size: Number of stored images beyond one for each class.
        k: Number of neighbors.
        temperature: Of the votes.
    """

    bank: Tensor
    bank_labels: Tensor
    scale: Tensor

    def __init__(
        self, num_features: int, num_classes: int, *, size: int, k: int, temperature: float
    ) -> None:
        super().__init__()
        self.k, self.temperature = k, temperature
        start = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(l2_normalize(start))
        self.register_buffer("bank", torch.zeros(size, num_features))
        self.register_buffer("bank_labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``."""
        classes = len(self.weight)
        inputs = l2_normalize(full_precision(features))
        stored = torch.cat([l2_normalize(self.weight), self.bank])
        cosines = full_precision(inputs @ stored.T)
        empty = ~stored.detach().any(dim=1)
        cosines = cosines.masked_fill(empty, -torch.inf)
        labels = torch.cat([torch.arange(classes, device=stored.device), self.bank_labels])
        return self.scale * vote_logits(
            cosines, labels, num_classes=classes, k=self.k, temperature=self.temperature
        )

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. A prototype is one image; ``new_bias`` is ignored."""
        if prototypes is not None:
            check_prototypes(prototypes, num_new, self.weight.shape[1])
            prototypes = l2_normalize(prototypes.to(self.weight))
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
