"""Balanced contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.contrast import (
    itself,
    mean_over_positives,
    positive_pairs,
    similarities,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Range

if TYPE_CHECKING:
    from trainables.companion import Companion


class BCL(Loss):
    """Balanced contrastive: every class weighs alike in the denominator and is in every batch.

    Supervised contrastive learning with two changes. Class-averaging: the denominator adds, over
    the classes j, the mean of ``exp(z_i z_a / T)`` over the rows of class j, not the sum.
    Class-complement: one learned prototype per class joins each batch, as a positive of its class
    and a row of the denominator, so that no class is absent. ``loss = mean_i mean_{p in P(i)}
    -log(exp(z_i z_p / T) / sum_j mean_{a in A_j} exp(z_i z_a / T))``. It trains no head: use it in
    ``joint``, as the paper does (weight 0.35 beside a logit-adjusted cross-entropy).

    Args:
        temperature: T > 0. Default 0.1, as in the released code.
        dimension: Width P of the projections. Default 128.

    Shapes:
        projections ``[N, P]`` and prototypes ``[C, P]`` of unit norm, labels ``[N]`` int64 ->
        scalar. Two views of each image are two rows.

    Lower is better; mean over the N anchors. As in the released code, the mean of a class counts
    one row less for a column that is the anchor's positive. The prototypes are free parameters
    here; in the released code they are a small network's output for the classifier's weights.

    Source:
        Zhu et al. 2022, "Balanced Contrastive Learning for Long-Tailed Visual Recognition",
        arXiv:2207.09052, equation 5; reference code FlamieZhu/Balanced-Contrastive-Learning,
        loss/contrastive.py.

    Example:
        One row at its prototype and one class elsewhere: -log(e / (e + 1)).

        >>> BCL(temperature=1.0)(
        ...     projections=torch.tensor([[1.0, 0.0]]),
        ...     prototypes=torch.eye(2),
        ...     labels=torch.tensor([0]),
        ... )
        tensor(0.3133)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.1
    dimension: Annotated[int, Field(ge=1)] = 128

    def build(self, num_features: int, num_classes: int) -> Companion:
        from trainables.companion import Companion

        return Companion(
            num_features, views=2, dimension=self.dimension, num_prototypes=num_classes
        )

    def __call__(
        self, *, projections: torch.Tensor, prototypes: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        size, classes = len(labels), torch.arange(len(prototypes), device=labels.device)
        everything = torch.cat([projections, prototypes.to(projections)])
        logits = similarities(projections, everything, temperature=self.temperature)
        columns = torch.cat([labels, classes])
        positive = torch.cat([positive_pairs(labels), labels[:, None] == classes], dim=1)
        rows_of_class = (columns == columns[:, None]).sum(dim=1)
        own = torch.cat([itself(size, labels), torch.zeros_like(positive[:, size:])], dim=1)
        weighed = logits - (rows_of_class - positive.int()).to(logits).log()
        denominator = weighed.masked_fill(own, -torch.inf).logsumexp(dim=1, keepdim=True)
        return -mean_over_positives(logits - denominator, positive).mean()
