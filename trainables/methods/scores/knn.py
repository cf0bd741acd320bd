"""Distance to the k-th nearest training feature."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.features.neighbors import nearest_cosines
from trainables.methods.method import Range
from trainables.methods.scores import Score

ROWS = 1024  # samples per matrix product with the bank; 100 MB for a bank of 12,000 rows


class KNN(Score):
    """Negative distance to the k-th nearest training feature, on the unit sphere.

    ``confidence = -|z/|z| - z_(k)/|z_(k)||`` with z_(k) the k-th nearest of the training features.
    The score makes no assumption about the distribution of a class; each sample is compared with
    all training samples.

    Args:
        k: Number of the neighbor, >= 1, cut to the number of training samples; 50 in the paper for
            CIFAR.
        within_class: Cut k to the size of the rarest class that occurs. With a larger k, the k-th
            neighbor of a sample of that class is always of another class, which lowers the
            confidence of rare known classes. ``False`` is the paper's form.

    Shapes:
        fit: features [N, D], labels [N] int64 (optional; without labels ``within_class`` has no
        effect) -> state (normalized features, at least float32, and the k in use).
        call: features [B, D], state -> confidence [B] in [-2, 0], float32 (float64 for float64
        input). Higher values indicate a known class.

    Raises:
        ValueError: There are no training samples.

    Source:
        Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors",
        arXiv 2204.06507. OpenOOD uses the squared distance (the same ranking).

    Example:
        >>> score = KNN(k=2)
        >>> state = score.fit(features=torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
        >>> score(features=torch.tensor([[1.0, 0.0]]), state=state).square().round(decimals=4)
        tensor([2.])
    """

    k: Annotated[int, Field(ge=1), Range(1, 200, log=True)] = 50
    within_class: bool = True

    def fit(
        self, *, features: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Store the L2-normalized training features and k."""
        if len(features) == 0:
            raise ValueError("scores/knn needs training samples to fit; received none")
        k = min(self.k, len(features))
        if self.within_class and labels is not None:
            k = min(k, int(labels.unique(return_counts=True)[1].min()))
        return {"bank": _unit(features), "k": torch.tensor(k)}

    def __call__(self, *, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        # float64, because 2 - 2 cos loses half the digits near 0
        bank = state["bank"].to(features.device).double()
        rows = _unit(features).double()
        cosines = nearest_cosines(rows, bank, num_neighbors=int(state["k"]), block=ROWS)
        distance = (2 - 2 * cosines[:, -1]).clamp_min(0).sqrt()
        return -distance.to(torch.promote_types(features.dtype, torch.float32))

    def leave_out(
        self, *, features: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor
    ) -> torch.Tensor:
        """Return the confidence of each training sample by a fit without its group, exactly."""
        units = _unit(features).double()
        k = self._neighbor_without(labels, groups)
        parts = []
        for rows in torch.arange(len(units), device=units.device).split(ROWS):
            own = groups[rows][:, None] == groups
            cosines = (units[rows] @ units.T).masked_fill(own, -torch.inf)
            nearest = cosines.topk(int(k[rows].max()), dim=1).values
            parts.append(nearest.gather(1, k[rows][:, None] - 1)[:, 0])
        distance = (2 - 2 * torch.cat(parts)).clamp_min(0).sqrt()
        return -distance.to(torch.promote_types(features.dtype, torch.float32))

    def _neighbor_without(self, labels: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Return the k ``[N]`` in use where a sample's group is not among the training samples."""
        _, group, sizes = groups.unique(return_inverse=True, return_counts=True)
        most = (len(labels) - sizes)[group]
        if self.within_class:
            counts = torch.bincount(labels)
            # a class that leaves whole counts no more; of the others the smallest decides
            pairs, lost = torch.stack([group, labels]).unique(dim=1, return_counts=True)
            left = counts[pairs[1]] - lost
            left = torch.where(left > 0, left, len(labels))
            touched = torch.full_like(sizes, len(labels)).scatter_reduce(0, pairs[0], left, "amin")
            others = self._smallest_other(counts, pairs, len(sizes))
            most = torch.minimum(most, torch.minimum(touched, others)[group])
        found: torch.Tensor = most.clamp(1, self.k)
        return found

    @staticmethod
    def _smallest_other(counts: torch.Tensor, pairs: torch.Tensor, num_groups: int) -> torch.Tensor:
        """Return for each group the size of the smallest class of which it has no image."""
        present = counts[counts > 0]
        order = torch.where(counts > 0, counts, counts.max() + 1).argsort()[: len(present)]
        rank = torch.empty_like(counts).scatter_(0, order, torch.arange(len(order)).to(order))
        # the number of smallest classes in a row, 0, 1, ..., that a group has images of
        held = torch.stack([pairs[0], rank[pairs[1]]])
        held = held[:, (held[0] * (len(order) + 1) + held[1]).argsort()]
        first = torch.searchsorted(held[0].contiguous(), held[0].contiguous())
        in_a_row = held[1] == torch.arange(held.shape[1]).to(first) - first
        reach = torch.zeros(num_groups, dtype=torch.int64, device=counts.device)
        reach = reach.scatter_add(0, held[0], in_a_row.long())
        sizes = torch.cat([counts[order], counts.sum()[None]])  # without another class, no bound
        return sizes[reach]


def _unit(features: torch.Tensor) -> torch.Tensor:
    """L2-normalize features, in float32 or better; a zero feature stays zero."""
    values = features.detach().to(torch.promote_types(features.dtype, torch.float32))
    return torch.nn.functional.normalize(values, dim=1)
