"""Supervised contrastive loss (SupCon)."""

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


class SupCon(Loss):
    """Supervised contrastive loss, in which samples of the same class are positives.

    ``loss = mean_i -(T / T_base) mean_{p in P(i)} log(exp(z_i z_p / T) / sum_{a != i} exp(z_i z_a /
    T))``, where P(i) are the other rows with i's label. The loss does not train the head; use it in
    ``joint``.

    Args:
        temperature: T > 0. Default 0.1, as in Hybrid-SC and the paper for ImageNet.
        base_temperature: T_base > 0. ``null``, the default, is T, so that the factor is 1 as in the
            paper (0.07 in the reference code).
        dimension: Width P of the projections. Default 128, as in the paper.

    Shapes:
        projections ``[N, P]`` of unit norm, labels ``[N]`` int64 -> scalar. Two views of each image
        are two rows.

    Lower is better; mean over the N anchors. An anchor without a positive contributes 0.

    Source:
        Khosla et al. 2020, "Supervised Contrastive Learning", arXiv:2004.11362, equation 2;
        reference code HobbitLong/SupContrast, losses.py.

    Example:
        >>> loss = SupCon(temperature=1.0)  # twice -log(e / (e + 1)), and 0 without a positive
        >>> loss(
        ...     projections=torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        ...     labels=torch.tensor([0, 0, 1]),
        ... )
        tensor(0.2088)
    """

    temperature: Annotated[float, Field(gt=0), Range(0.05, 1.0, log=True)] = 0.1
    base_temperature: Annotated[float | None, Field(gt=0)] = None
    dimension: Annotated[int, Field(ge=1)] = 128

    def build(self, num_features: int, num_classes: int) -> ContrastiveModule:
        from trainables.models.contrastive_module import ContrastiveModule

        return ContrastiveModule(num_features, views=2, dimension=self.dimension)

    def __call__(self, *, projections: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = similarities(projections, projections, temperature=self.temperature)
        self_pairs = itself(len(labels), labels)
        # finite instead of -inf, because the gradient of a single row would be NaN
        lowest = torch.finfo(logits.dtype).min
        log_probability = logits.masked_fill(self_pairs, lowest).log_softmax(dim=1)
        each = -mean_over_positives(log_probability, positive_pairs(labels))
        return self.temperature / (self.base_temperature or self.temperature) * each.mean()
