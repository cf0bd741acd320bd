"""Parametric contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.class_weights import class_prior, full_precision
from trainables.contrast import EMPTY, itself, similarities
from trainables.methods.losses import Loss
from trainables.methods.method import Range

if TYPE_CHECKING:
    from trainables.companion import Companion


class PaCo(Loss):
    """Parametric contrastive: class logits and other samples share one softmax.

    For an anchor the candidates are the C logits ``z + log(pi + 1e-9)``, the other projections of
    the batch and those of a queue, as ``z_i z_a / T``. ``loss = mean_i -(log p_{i,y} + alpha
    sum_{a in P(i)} log p_{i,a}) / (1 + alpha |P(i)|)`` with ``p`` the softmax over all candidates.
    The logits' own term trains the head; no ``joint`` is needed.

    Args:
        alpha: Weight of a sample of the same class, >= 0; the own logit has weight 1. Default
            0.01 (the released recipe for CIFAR-100-LT).
        temperature: T > 0. Default 0.05 (the same).
        queue_size: Projections of earlier batches, >= 0. Default 1024 (the same).
        dimension: Width P of the projections. Default 32 (the same).

    Shapes:
        logits ``[M, C]`` of the anchors, which are the first M rows of projections ``[N, P]`` (unit
        norm) and labels ``[N]`` int64; class_counts ``[C]``; queue ``[Q, P]`` and queue_labels
        ``[Q]`` (-1: empty place) -> scalar.

    Lower is better; mean over the anchors. All rows of a batch are anchors here, and the projector
    itself makes the queue, as in the authors' later GPaCo; the released code takes one view as
    anchors and a second network, a moving average, for the other and for the queue.

    Source:
        Cui et al. 2021, "Parametric Contrastive Learning", arXiv:2107.12028, equation 3; reference
        code dvlab-research/Parametric-Contrastive-Learning, PaCo/LT/losses.py (with beta, gamma and
        supt 1). Without a moving average: Cui et al. 2022, "Generalized Parametric Contrastive
        Learning", arXiv:2209.12400.

    Example:
        A batch of one and no queue is logit-adjusted cross-entropy: -log(3 / 4).

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

    def build(self, num_features: int, num_classes: int) -> Companion:
        from trainables.companion import Companion

        return Companion(
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
        own = itself(len(columns), labels)[:anchors]
        absent = own | (columns == EMPTY)
        positive = (labels[:anchors, None] == columns) & ~absent
        candidates = torch.cat([adjusted, pairs.masked_fill(absent, -torch.inf)], dim=1)
        log_probability = candidates.log_softmax(dim=1)
        of_class = log_probability.gather(1, labels[:anchors, None])[:, 0]
        of_samples = log_probability[:, logits.shape[1] :].masked_fill(~positive, 0.0).sum(dim=1)
        weight = 1 + self.alpha * positive.sum(dim=1).to(logits)
        return -((of_class + self.alpha * of_samples) / weight).mean()
