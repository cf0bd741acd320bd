"""Means of the projections of each class, over the last epoch and the running one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

UNSEEN_LENGTH = 0.9  # of the mean of a class without samples: it is thought to be concentrated


class ClassMeans(nn.Module):
    """Per class the mean of all projections since the start of the last epoch.

    Older ones are forgotten, as the network has moved on since. A class that had no sample in that
    time has a random mean, always the same. All is kept in buffers: in checkpoints, on every worker
    alike; in float64, because a length near 1 tells how concentrated a class is.

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
        """Forget all but what the epoch that ends saw."""
        for earlier, running in (
            (self.earlier_sums, self.sums),
            (self.earlier_counts, self.counts),
        ):
            earlier.copy_(running)
            running.zero_()

    @torch.no_grad()
    def observe(self, projections: Tensor, labels: Tensor) -> None:
        """Add projections ``[B, P]`` with their classes ``[B]``."""
        # a product, because index_add_ on a GPU adds in an order that differs between workers
        member = one_hot(labels.long(), len(self.counts)).to(self.sums).T
        self.sums.add_(member @ projections.to(self.sums))
        self.counts.add_(member.sum(dim=1, keepdim=True))
