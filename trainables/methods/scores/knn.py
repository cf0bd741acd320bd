from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.scores import Score
from trainables.neighbors import nearest_cosines

ROWS = 1024  # samples compared with the bank at a time: 12,000 bank rows then take 100 MB


class KNN(Score):
    """Closeness to the k-th nearest training sample, on the unit sphere.

    ``confidence = -|z/|z| - z_(k)/|z_(k)||`` with z_(k) the k-th nearest of the training features.
    Assumes nothing about the shape of classes; costs a comparison with every training sample.

    Args:
        k: Which neighbour, >= 1; 50 in the paper for CIFAR. At most the number of training samples
            is used.
        within_class: Use at most the size of the rarest class that occurs: beyond it, the k-th
            neighbour of a sample of that class is always of another one, so with a long tail rare
            classes look unknown. ``False`` is the paper's form.

    Shapes:
        fit: features [N, D], labels [N] int64 (optional: without, ``within_class`` has no effect)
        -> state (unit features in their own precision, at least float32, and the k in use).
        call: features [B, D], state -> confidence [B] in [-2, 0], float32 (float64 for float64
        input). Higher = more surely known.

    Raises:
        ValueError: There is no sample to fit.

    Source:
        Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors",
        arXiv 2204.06507. OpenOOD takes the squared distance (same order).

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
        """Remember the training features, scaled to length 1."""
        if len(features) == 0:
            raise ValueError("scores/knn needs training samples to fit; received none")
        k = min(self.k, len(features))
        if self.within_class and labels is not None:
            k = min(k, int(labels.unique(return_counts=True)[1].min()))
        return {"bank": _unit(features), "k": torch.tensor(k)}

    def __call__(self, *, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        # 2 - 2 cos loses half the digits near 0: hence float64
        bank = state["bank"].to(features.device).double()
        rows = _unit(features).double()
        cosines = nearest_cosines(rows, bank, num_neighbors=int(state["k"]), block=ROWS)
        distance = (2 - 2 * cosines[:, -1]).clamp_min(0).sqrt()
        return -distance.to(torch.promote_types(features.dtype, torch.float32))


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Return features with length 1, in float32 or better; a zero feature stays zero."""
    values = features.detach().to(torch.promote_types(features.dtype, torch.float32))
    return torch.nn.functional.normalize(values, dim=1)
