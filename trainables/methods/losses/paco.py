"""Parametric contrastive loss (PaCo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import class_prior, full_precision
from trainables.functional.contrast import EMPTY, itself, similarities
from trainables.methods.losses import Loss
from trainables.methods.method import Range

if TYPE_CHECKING:
    from trainables.models.contrastive_module import ContrastiveModule


class PaCo(Loss):
    """Parametric contrastive loss, one softmax over class logits and similarities to samples.

    The softmax ``p`` of an anchor i is over the C logits ``z + log(pi + 1e-9)``, and the
    similarities ``z_i z_a / T`` to the other projections of the batch and to those of a queue.
    ``loss = mean_i -(log p_{i,y} + alpha sum_{a in P(i)} log p_{i,a}) / (1 + alpha |P(i)|)``.
    The class logits train the head, so that ``joint`` is not needed.

    Args:
        alpha: Weight of a positive sample, >= 0; the logit of the true class has weight 1. Default
            0.01, as all defaults from the reference recipe for CIFAR-100-LT.
        temperature: T > 0. Default 0.05.
        queue_size: Number of projections of earlier batches, >= 1. Default 1024.
        dimension: Width P of the projections. Default 32.

    Shapes:
        logits ``[M, C]`` of the anchors, which are the first M rows of projections ``[N, P]`` (unit
        norm) and labels ``[N]`` int64; class_counts ``[C]``; queue ``[Q, P]`` and queue_labels
        ``[Q]`` (-1 for an unfilled entry) -> scalar.

    Lower is better; mean over the anchors. As in the authors' later GPaCo, all rows of a batch are
    anchors and the queue is filled by the trained projector. In PaCo's reference code, the rows of
    one view are anchors, and a moving-average network computes the other view and the queue.

    Source:
        Cui et al. 2021, "Parametric Contrastive Learning", arXiv:2107.12028, equation 3; reference
        code dvlab-research/Parametric-Contrastive-Learning, PaCo/LT/losses.py (with beta, gamma and
        supt 1). Cui et al. 2022, "Generalized Parametric Contrastive Learning" (GPaCo),
        arXiv:2209.12400, has no moving average.

    Example:
        A batch of one and an empty queue give logit-adjusted cross-entropy, -log(3 / 4).

        >>> PaCo()(
        ...     logits=torch.zeros(1, 2),
        ...     projections=torch.tensor([[1.0, 0.0]]),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([3, 1]),
        ...     queue=torch.zeros(0, 2),
        ...     queue_labels=torch.zeros(0, dtype=torch.int64),
        ... )
        tensor(0.2877)
    """

    alpha: Annotated[float, Field(ge=0), Range(0.005, 0.1, log=True)] = 0.01
    temperature: Annotated[float, Field(gt=0), Range(0.05, 0.5, log=True)] = 0.05
    queue_size: Annotated[int, Field(ge=1)] = 1024
    dimension: Annotated[int, Field(ge=1)] = 32

    def build(self, num_features: int, num_classes: int) -> ContrastiveModule:
        from trainables.models.contrastive_module import ContrastiveModule

        return ContrastiveModule(
            num_features, views=2, dimension=self.dimension, queue_size=self.queue_size
        )

    def __call__(
        self,
        *,
        logits: torch.Tensor,
        projections: torch.Tensor,
        labels: torch.Tensor,
        class_counts: torch.Tensor,
        queue: torch.Tensor,
        queue_labels: torch.Tensor,
    ) -> torch.Tensor:
        anchors = len(logits)
        logits = full_precision(logits)
        # the epsilon keeps the shift of an absent class finite
        adjusted = logits + torch.log(class_prior(class_counts) + 1e-9).to(logits)
        everything = torch.cat([projections, queue.to(projections)])
        pairs = similarities(projections[:anchors], everything, temperature=self.temperature)
        columns = torch.cat([labels, queue_labels.to(labels)])
        self_pairs = itself(len(columns), labels)[:anchors]
        absent = self_pairs | (columns == EMPTY)
        positive = (labels[:anchors, None] == columns) & ~absent
        candidates = torch.cat([adjusted, pairs.masked_fill(absent, -torch.inf)], dim=1)
        log_probability = candidates.log_softmax(dim=1)
        of_class = log_probability.gather(1, labels[:anchors, None])[:, 0]
        of_samples = log_probability[:, logits.shape[1] :].masked_fill(~positive, 0.0).sum(dim=1)
        weight = 1 + self.alpha * positive.sum(dim=1).to(logits)
        return -((of_class + self.alpha * of_samples) / weight).mean()
