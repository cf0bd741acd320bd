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


def _unit(features: torch.Tensor) -> torch.Tensor:
    """L2-normalize features, in float32 or better; a zero feature stays zero."""
    values = features.detach().to(torch.promote_types(features.dtype, torch.float32))
    return torch.nn.functional.normalize(values, dim=1)
