"""Labelled images and those that a first classifier labelled, as one thing to learn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import ImageView, LabelledView
from trainables.context import Context
from trainables.data.image_files import join, take
from trainables.methods.self_trainers import SelfTrainer
from trainables.training.distributed import shared


class Lesson(NamedTuple):
    """What a classifier learns from: images with labels, and how often each is drawn.

    ``weights [N]`` multiply the chance of each image; ``None``: all stay as the sampler says. What
    the view shows is not ``augmented`` if it is features.
    """

    view: LabelledView
    weights: Tensor | None = None
    augmented: bool = True

    @property
    def class_counts(self) -> Tensor:
        """Images per class ``[C]`` int64, whoever labelled them."""
        return torch.bincount(torch.from_numpy(self.view.labels), minlength=self.view.num_classes)


def self_labelled(
    trainer: SelfTrainer,
    logits: Tensor,
    *,
    known: LabelledView,
    unlabelled: ImageView,
    context: Context,
) -> Lesson:
    """Return the labelled images, followed by those unlabelled ones that the trainer keeps.

    Args:
        trainer: Makes labels and weights of the logits.
        logits: Of the unlabelled images under a first classifier ``[N, C]``.
        known: Labelled images; their weight is 1.
        unlabelled: The images that belong to the logits.
        context: Of several workers all get what the first one found.
    """
    found: tuple[Tensor, Tensor] = trainer.call_with({"logits": logits})
    labels, weights = shared(tuple(part.cpu() for part in found), context)
    kept = weights > 0
    chosen = unlabelled.indices[kept.numpy()]
    images = join(take(known.images, known.indices), take(unlabelled.images, chosen))
    view = LabelledView(
        images,
        np.arange(len(images), dtype=np.int64),
        np.concatenate([known.labels, labels[kept].numpy()]),
        known.num_classes,
        f"{known.digest}+{unlabelled.digest}",
    )
    together = torch.cat([torch.ones(len(known.indices)), weights[kept].float()])
    return Lesson(view, None if bool((together == 1).all()) else together)
