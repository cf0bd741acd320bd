"""The loss of one step of `classify`: mixed or joined batches, features, then the recipe's loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from trainables.context import Context
from trainables.data.loader import Batch
from trainables.functional.joined_batch import Joined
from trainables.models.activation_maps import class_activation
from trainables.models.contrastive_module import ContrastiveModule
from trainables.models.experts import ExpertsHead
from trainables.training.classify_model import ClassifyModel
from trainables.training.classify_settings import Classify
from trainables.training.distributed import gathered
from trainables.training.mixed_batch import mixed_features, mixed_loss
from trainables.training.step_batches import StepBatches
from trainables.transforms.mixing import Mix

MEAN_MOMENTUM = 0.9  # of the moving average of features (Tang et al. 2020)


class StepLoss:
    """``(batch, second batch or None), progress -> scalar``; moves the model's mean of features.

    Args:
        model: What is trained.
        settings: Loss, mixing and branches.
        batches: Class counts, and the generator of each epoch's mixtures.
        layout: Memory format of images.
        context: Device and workers.
    """

    def __init__(
        self,
        model: ClassifyModel,
        settings: Classify,
        batches: StepBatches,
        layout: torch.memory_format,
        context: Context,
    ) -> None:
        self.model, self.settings, self.batches = model, settings, batches
        self.layout, self.context = layout, context
        self.class_counts = batches.counts.to(context.device)

    def __call__(self, pair: tuple[Batch, Batch | None], progress: float) -> Tensor:
        """Return the loss of a step."""
        first, second = pair
        images = first.images.contiguous(memory_format=self.layout)
        given: dict[str, Any] = {
            "images": images,
            "labels": first.labels,
            "class_counts": self.class_counts,
            "progress": progress,
        }
        mix = self._mix(given)
        given["features"] = self._features(images, mix, branch=0)
        if second is not None:
            images = second.images.contiguous(memory_format=self.layout)
            given["second_features"] = self._features(images, None, branch=1)
            given["second_labels"] = second.labels
        joined: Joined = self.settings.branches.call_with(given)
        self.model.mean.mul_(MEAN_MOMENTUM).add_(joined.observed.float().mean(0))
        return self._objective(joined, given, mix)

    def _count(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch's right answers and images of each class; nothing waits for the device."""
        hits = self.model.hits
        if logits.shape[1] == hits.shape[1]:  # a head may have logits of groups beside
            right = (logits.argmax(1) == labels).to(hits)
            hits.index_add_(1, labels, torch.stack([right, torch.ones_like(right)]))

    def _mix(self, given: dict[str, Any]) -> Mix | None:
        """Return how a batch is mixed."""
        model = self.model
        seen = partial(class_activation, model.trunk, model.head, given["images"], given["labels"])
        available = {**given, "class_activation": seen, "generator": self.batches.mixing}
        mix: Mix | None = self.settings.mixing.call_with(available)
        return mix

    def _features(self, images: Tensor, mix: Mix | None, *, branch: int) -> Tensor:
        """Return a batch's features: of one branch where each batch has its own, else of all."""
        if self.settings.branches.trunk_ending:
            return self.model.trunk.forward_branch(images, branch)
        return mixed_features(self.model.trunk, images, mix)

    def _objective(self, joined: Joined, given: dict[str, Any], mix: Mix | None) -> Tensor:
        """Return the recipe's loss; of two batches that are joined, the weighted sum of both."""
        model, loss = self.model, self.settings.loss
        features, labels = joined.features, joined.labels
        available = {**given, "features": features, "labels": labels}
        rate = self.settings.dropout
        seen = dropout(features, rate) if rate else features
        available["logits"] = model.head(seen)
        if mix is None and joined.share == 1.0:
            self._count(available["logits"].detach(), labels)
        if isinstance(model.head, ExpertsHead):
            available["expert_logits"] = model.head.each(seen)
        if model.companion is not None:
            available |= _compared(model.companion, joined, available, self.context)
        value = mixed_loss(loss, available, mix)
        if joined.share == 1.0:
            return value
        other = mixed_loss(loss, {**available, "labels": joined.second_labels}, None)
        return joined.share * value + (1 - joined.share) * other


def _compared(
    companion: ContrastiveModule, joined: Joined, own: dict[str, Any], context: Context
) -> dict[str, Tensor]:
    """Return what a loss that compares samples gets: the rows of all workers, on each of them."""
    whole = {name: gathered(own[name], context) for name in ("logits", "features", "labels")}
    labels = gathered(joined.compared_labels, context)
    projections = gathered(companion(joined.compared), context)
    return {**whole, **companion.supply(projections, labels), "projection_labels": labels}
