"""Training of a student on the answers of two teachers: its head, and its trunk."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import ImageView, LabelledView
from trainables.context import Context, ambient_rng
from trainables.data.image_files import join, take
from trainables.data.loader import Batch, Loader, weighted_positions
from trainables.models.backbone import Trunk
from trainables.models.head_rate import rate_factor
from trainables.models.trunks.blocks import train_only, training_mode
from trainables.training.distributed import own_epoch, share_of_batch, synchronise_batchnorm
from trainables.training.loop import ParamGroup, TrainingState, fit, num_steps, rate_groups
from trainables.training.update_settings import Update


class DistillationSet(NamedTuple):
    """What the student learns from: exemplars of known classes, then pool samples.

    ``labels [M]`` (pseudo-labels for the pool), ``weights [M]``, ``rows`` into the stacked images
    of known and pool view, both teachers' logits and the old features on un-augmented images.
    ``features`` are the student's, ``old_features`` the first teacher's.
    """

    rows: Tensor
    labels: Tensor
    weights: Tensor
    features: Tensor
    old_features: Tensor
    old_logits: Tensor
    new_logits: Tensor
    class_counts: Tensor


class Student(NamedTuple):
    """The model that an update trains: its logits are ``head(trunk(images)) + offset``."""

    trunk: Trunk
    head: torch.nn.Module
    offset: Tensor


def _objective(
    settings: Update,
    study: DistillationSet,
    rows: Tensor,
    features: Tensor,
    logits: Tensor,
    progress: float,
) -> Tensor:
    """Return classification loss plus distillation on the samples ``rows`` of the study.

    All is on one device: a copy in every step would wait for it.
    """
    classification: Tensor = settings.loss.call_with(
        {
            "logits": logits,
            "features": features,
            "labels": study.labels[rows],
            "class_counts": study.class_counts,
            "progress": progress,
        }
    )
    distillation: Tensor = settings.distiller.call_with(
        {
            "student_logits": logits,
            "old_logits": study.old_logits[rows],
            "new_logits": study.new_logits[rows],
            "student_features": features,
            "old_features": study.old_features[rows],
            "labels": study.labels[rows],
            "progress": progress,
        }
    )
    return classification + distillation


def _on_device(study: DistillationSet, context: Context) -> DistillationSet:
    """Return the study on the device of the stage."""
    return DistillationSet(*(tensor.to(context.device) for tensor in study))


def _drawn(
    settings: Update, study: DistillationSet, epoch: int, generator: torch.Generator
) -> Tensor:
    """Return an epoch's rows of the study: the sampler's, by each pseudo-label's weight."""
    epochs = settings.training.epochs
    available = {
        "labels": study.labels,
        "class_counts": study.class_counts,
        "progress": epoch / max(1, epochs - 1),
        "epochs": epochs,
        "generator": generator,
    }
    wanted: Tensor = settings.sampler.call_with(available)
    return weighted_positions(wanted, study.weights, labels=study.labels, generator=generator)


def train_head(
    student: Student, settings: Update, study: DistillationSet, context: Context, round_number: int
) -> None:
    """Phase A: the trunk is frozen (its cached features are used), the head learns."""
    training = settings.training
    there, offset = _on_device(study, context), student.offset.to(context.device)
    factor = 1.0 if settings.rate == "fixed" else rate_factor(student.head, there.features)

    @lru_cache(maxsize=1)
    def batches(epoch: int) -> tuple[Tensor, ...]:
        draw = context.generator("update", "head", round_number, epoch)
        rows = _drawn(settings, study, epoch, draw).to(context.device)
        return rows.chunk(num_steps(len(rows), training.batch_size))

    def epoch_batches(epoch: int) -> object:
        student.head.train()
        return batches(epoch)

    def batch_loss(rows: Tensor, progress: float) -> Tensor:
        features = there.features[rows]
        logits = student.head(features) + offset
        return _objective(settings, there, rows, features, logits, progress)

    fit(
        [ParamGroup(list(student.head.parameters()), factor)],
        epoch_batches=epoch_batches,  # type: ignore[arg-type]
        steps_per_epoch=lambda epoch: len(batches(epoch)),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="update/head",
        state=TrainingState({"head": student.head}, name=f"update/head-{round_number}"),
    )
    student.head.eval()


def train_trunk(
    student: Student,
    settings: Update,
    study: DistillationSet,
    views: tuple[LabelledView, ImageView],
    context: Context,
    round_number: int,
) -> None:
    """Phase B: the head is frozen, the trunk learns with its own smaller rate, on images."""
    training = settings.training
    loader = Loader(
        _stack(views),
        batch_size=share_of_batch(training.batch_size, context, "update"),
        augmentation=settings.augmentation,
        device=context.device,
    )
    if training.sync_batchnorm:
        synchronise_batchnorm(student.trunk, context)
    there, offset = _on_device(study, context), student.offset.to(context.device)
    student.head.eval().requires_grad_(False)
    with ambient_rng(context.generator("update", "tuner", round_number)):
        settings.trunk.prepare(student.trunk)
    rates = settings.trunk.rates(student.trunk)
    train_only(student.trunk, rates)
    # where each image's row is in the study, to find its teachers' logits again
    lookup = torch.zeros(sum(len(v.indices) for v in views), dtype=torch.int64)
    lookup[study.rows] = torch.arange(len(study.rows))
    lookup = lookup.to(context.device)

    @lru_cache(maxsize=1)
    def drawn(epoch: int) -> tuple[Tensor, torch.Generator]:
        draw = context.generator("update", "trunk", round_number, epoch)
        return _drawn(settings, study, epoch, draw), draw

    def epoch_batches(epoch: int) -> object:
        training_mode(student.trunk)
        chosen, draw = drawn(epoch)
        names = ("update", "augmentation", round_number, epoch)
        return own_epoch(loader, study.rows[chosen], draw, context, *names)

    def batch_loss(batch: Batch, progress: float) -> Tensor:
        rows = lookup[batch.positions]
        features = student.trunk(batch.images)
        logits = student.head(features) + offset
        return _objective(settings, there, rows, features, logits, progress)

    fit(
        rate_groups(
            (weight, settings.trunk_lr_factor * rates[name])
            for name, weight in student.trunk.named_parameters()
            if name in rates
        ),
        epoch_batches=epoch_batches,  # type: ignore[arg-type]
        steps_per_epoch=lambda epoch: num_steps(len(drawn(epoch)[0]), training.batch_size),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="update/trunk",
        state=TrainingState(
            {"trunk": student.trunk, "head": student.head},
            name=f"update/trunk-{round_number}",
            trunk=student.trunk,
        ),
    )
    settings.trunk.finish(student.trunk.eval())
    student.head.requires_grad_(True)


def _stack(views: tuple[LabelledView, ImageView]) -> ImageView:
    """Return one image view over the known training images followed by the pool."""
    known, pool = views
    images = join(take(known.images, known.indices), take(pool.images, pool.indices))
    return ImageView(images, np.arange(len(images)), f"{known.digest}+{pool.digest}")
