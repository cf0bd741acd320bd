"""Balanced contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.functional.contrast import (
    itself,
    mean_over_positives,
    positive_pairs,
    similarities,
)
from trainables.methods.losses import Loss
from trainables.methods.method import Range

if TYPE_CHECKING:
    from trainables.models.contrastive_module import ContrastiveModule


class BCL(Loss):
    """Balanced contrastive loss, with class-averaged denominators and a prototype for each class.

    Supervised contrastive loss with two changes. By class-averaging, the denominator is the sum
    over classes j of the mean of ``exp(z_i z_a / T)`` over the rows of class j. By
    class-complement, each batch contains one learned prototype per class, as a positive of its
    class and a row of the denominator, so that no class is absent. ``loss = mean_i mean_{p in P(i)}
    -log(exp(z_i z_p / T) / sum_j mean_{a in A_j} exp(z_i z_a / T))``. The loss does not train the
    head; use it in ``joint``, as the paper (weight 0.35, with a logit-adjusted cross-entropy).

    Args:
        temperature: T > 0. Default 0.1, as in the reference code.
        dimension: Width P of the projections. Default 128.

    Shapes:
        projections ``[N, P]`` and prototypes ``[C, P]`` of unit norm, labels ``[N]`` int64 ->
        scalar. Two views of each image are two rows.

    Lower is better; mean over the N anchors. As in the reference code, the mean over a class counts
    one row less in columns that are positives of the anchor. The prototypes are free parameters; in
    the reference code they are the output of a small network on the classifier's weights.

    Source:
        Zhu et al. 2022, "Balanced Contrastive Learning for Long-Tailed Visual Recognition",
        arXiv:2207.09052, equation 5; reference code FlamieZhu/Balanced-Contrastive-Learning,
        loss/contrastive.py.

    Example:
        A row equal to its prototype, and an orthogonal prototype, give -log(e / (e + 1)).

        >>> BCL(temperature=1.0)(
        ...     projections=torch.tensor([[1.0, 0.0]]),
        ...     prototypes=torch.eye(2),
        ...     labels=torch.tensor([0]),
        ... )
        tensor(0.3133)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.1
    dimension: Annotated[int, Field(ge=1)] = 128

    def build(self, num_features: int, num_classes: int) -> ContrastiveModule:
        from trainables.models.contrastive_module import ContrastiveModule

        return ContrastiveModule(
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
        self_pairs = torch.cat([itself(size, labels), torch.zeros_like(positive[:, size:])], dim=1)
        weighed = logits - (rows_of_class - positive.int()).to(logits).log()
        denominator = weighed.masked_fill(self_pairs, -torch.inf).logsumexp(dim=1, keepdim=True)
        return -mean_over_positives(logits - denominator, positive).mean()
