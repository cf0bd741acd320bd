"""True labels (oracle)."""

from __future__ import annotations

from typing import ClassVar

import torch

from trainables.methods.pseudo_labelers import PseudoLabeler


class Oracle(PseudoLabeler):
    """The true labels, as an upper bound; never promoted.

    ``pseudo_label_i = y_i`` with weight 1; the label of an unrelated sample (``y_i = -1``) is its
    cluster, with weight 0.

    Shapes:
        assignments ``[S]`` int64, pool_labels ``[S]`` int64 (known ``0..C-1``, new ``C..``,
        unrelated ``-1``) -> pseudo_labels ``[S]`` int64, weights ``[S]`` float32, 0 or 1. Labels
        may exceed the number of clusters, if there are more true classes than clusters.

    Raises:
        ValueError: Labels and assignments differ in number.

    Source:
        None: an upper bound.

    Example:
        >>> Oracle()(assignments=torch.tensor([0, 0]), pool_labels=torch.tensor([2, -1]))
        (tensor([2, 0]), tensor([1., 0.]))
    """

    oracle: ClassVar[bool] = True

    def __call__(
        self, *, assignments: torch.Tensor, pool_labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if assignments.shape != pool_labels.shape:
            raise ValueError(
                "pseudo_labelers/oracle: pool_labels must have one label per assignment; "
                f"received {list(pool_labels.shape)} for {list(assignments.shape)}"
            )
        related = pool_labels >= 0
        return torch.where(related, pool_labels, assignments), related.float()
