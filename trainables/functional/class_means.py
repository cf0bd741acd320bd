"""Class means: weighted ones, and running ones over the previous and the current epoch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

UNSEEN_LENGTH = 0.9  # length of the random mean of a class without samples; 1 is concentrated


class ClassMeans(nn.Module):
    """Mean of each class's projections since the start of the previous epoch.

    Older projections are dropped because the network has changed since. A class without samples in
    this window has a random mean, drawn once. Sums and counts are buffers, so checkpoints hold them
    and all workers have the same; they are float64, because a length near 1 tells how concentrated
    a class is.

    Args:
        num_classes: C.
        dimension: P.

    Example:
        >>> means = ClassMeans(2, dimension=1)
        >>> means.observe(torch.tensor([[1.0], [0.0]]), torch.tensor([0, 0]))
        >>> means()[0], means()[1].abs()
        (tensor([0.5000], dtype=torch.float64), tensor([0.9000], dtype=torch.float64))
    """

    unseen: Tensor
    earlier_sums: Tensor
    earlier_counts: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, *, dimension: int) -> None:
        super().__init__()
        directions = normalize(torch.randn(num_classes, dimension, dtype=torch.float64), dim=1)
        zeros, none = torch.zeros_like(directions), torch.zeros(num_classes, 1).double()
        self.register_buffer("unseen", UNSEEN_LENGTH * directions)
        self.register_buffer("earlier_sums", zeros)
        self.register_buffer("earlier_counts", none)
        self.register_buffer("sums", zeros.clone())
        self.register_buffer("counts", none.clone())

    def forward(self) -> Tensor:
        """Return the means ``[C, P]``, float64, of length at most 1."""
        count = self.earlier_counts + self.counts
        mean = (self.earlier_sums + self.sums) / count.clamp(min=1)
        return torch.where(count > 0, mean, self.unseen)

    def start_epoch(self) -> None:
        """Drop the sums of all epochs before the one that just ended."""
        for earlier, running in (
            (self.earlier_sums, self.sums),
            (self.earlier_counts, self.counts),
        ):
            earlier.copy_(running)
            running.zero_()

    @torch.no_grad()
    def observe(self, projections: Tensor, labels: Tensor) -> None:
        """Add projections ``[B, P]`` with class labels ``[B]``."""
        # a matrix product, because the order of index_add_ on a GPU differs between workers
        member = one_hot(labels.long(), len(self.counts)).to(self.sums).T
        self.sums.add_(member @ projections.to(self.sums))
        self.counts.add_(member.sum(dim=1, keepdim=True))


def weighted_class_means(
    features: Tensor, labels: Tensor, weights: Tensor, classes: Iterable[int]
) -> Tensor:
    """Return the weighted mean feature of each of the classes, which all have samples: ``[K, D]``.

    Example:
        >>> features, labels = torch.tensor([[4.0], [8.0], [9.0]]), torch.tensor([2, 2, 0])
        >>> weighted_class_means(features, labels, torch.tensor([3.0, 1.0, 1.0]), [2])
        tensor([[5.]])
    """
    rows = []
    for label in classes:
        inside = labels == label
        weight = weights[inside, None]
        rows.append((features[inside] * weight).sum(0) / weight.sum())
    return torch.stack(rows)
