"""Stage 7: two teachers make one student that knows the new classes, in alternating phases."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import (
    Backbone,
    Classifier,
    Features,
    ImageView,
    LabelledView,
    PseudoLabels,
)
from trainables.backbone import Trunk, extract_features, from_artifact, to_artifact
from trainables.context import Context
from trainables.distributed import own_epoch, share_of_batch, share_state, synchronise_batchnorm
from trainables.experiment import Update
from trainables.loader import Batch, Loader, weighted_positions
from trainables.loop import Group, Kept, fit, num_steps
from trainables.modules import grow_head
from trainables.predict import head_module, predict_logits

PROVIDES: dict[str, frozenset[str]] = {
    "distiller": frozenset(
        {
            "student_logits",
            "old_logits",
            "new_logits",
            "student_features",
            "old_features",
            "labels",
            "progress",
        }
    ),
    "loss": frozenset({"logits", "features", "labels", "class_counts", "progress"}),
    "sampler": frozenset({"labels", "class_counts", "progress", "epochs", "generator"}),
    "augmentation": frozenset({"images", "generator"}),
}
# The label generator's logits are cosines to cluster centres; 10 makes a typical gap of 0.3 count.
GENERATOR_SCALE = 10.0


class Updated(NamedTuple):
    """What the stage gives."""

    updated_backbone: Backbone
    updated_classifier: Classifier


class _Study(NamedTuple):
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


def run(
    settings: Update,
    *,
    backbone: Backbone,
    classifier: Classifier,
    features: Features,
    known_train: LabelledView,
    pool: ImageView,
    pseudo_labels: PseudoLabels,
    context: Context,
) -> Updated:
    """Grow the head by the new classes and distil both teachers into the student.

    The student starts as a copy of the old model; rows of old classes are copied bit by bit, new
    rows point at the cluster centres. Without new classes the old model is returned unchanged.
    """
    num_new = pseudo_labels.num_clusters
    if num_new == 0:
        return Updated(backbone, classifier)
    study = _gather(settings, classifier, features, known_train, pseudo_labels, context)
    known = len(classifier.class_counts)
    head = grow_head(head_module(classifier), num_new, _centres(study, known)).to(context.device)
    offset = torch.cat([classifier.logit_offset, _usual_offset(classifier).expand(num_new)])
    student = _Student(from_artifact(backbone).to(context.device), head, offset)
    for round_number in range(settings.rounds):
        if context.rank == 0:  # on cached features: sharing it out would cost more than it saves
            _train_head(student, settings, study, context.alone(), round_number)
        share_state(student.head, context)
        if settings.mode == "full":
            _train_trunk(student, settings, study, (known_train, pool), context, round_number)
            refreshed = _features(student.trunk, (known_train, pool), context)
            study = study._replace(features=refreshed[study.rows])
    grown = Classifier(
        head=classifier.head,
        num_features=classifier.num_features,
        state={name: tensor.detach().cpu() for name, tensor in head.state_dict().items()},
        logit_offset=offset,
        class_counts=study.class_counts,
        feature_mean=classifier.feature_mean,
        oracle=pseudo_labels.oracle or classifier.oracle,
        training=classifier.training,
    )
    trunk = to_artifact(
        student.trunk, backbone.architecture, backbone.image_size, backbone.pretrained_on
    )
    return Updated(trunk if settings.mode == "full" else backbone, grown)


class _Student(NamedTuple):
    trunk: Trunk
    head: torch.nn.Module
    offset: Tensor


def _usual_offset(classifier: Classifier) -> Tensor:
    """Return the mean offset of the classes that have images: some silence the others for good."""
    present = classifier.class_counts > 0
    return classifier.logit_offset[present if bool(present.any()) else slice(None)].mean()


def _gather(
    settings: Update,
    classifier: Classifier,
    features: Features,
    known_train: LabelledView,
    pseudo_labels: PseudoLabels,
    context: Context,
) -> _Study:
    """Put exemplars and pseudo-labelled pool samples together, with both teachers' logits."""
    exemplars = _exemplars(known_train, settings.exemplars_per_class, context)
    kept = pseudo_labels.weights > 0
    positions = pseudo_labels.positions[kept]
    all_features = torch.cat([features.known_train[exemplars], features.pool[positions]])
    labels = torch.cat(
        [torch.from_numpy(known_train.labels)[exemplars], pseudo_labels.labels[kept]]
    )
    weights = torch.cat([torch.ones(len(exemplars)), pseudo_labels.weights[kept].float()])
    known = len(classifier.class_counts)
    counts = torch.bincount(labels, minlength=known + pseudo_labels.num_clusters)
    study = _Study(
        rows=torch.cat([exemplars, len(known_train.indices) + positions]),
        labels=labels,
        weights=weights,
        features=all_features,
        old_features=all_features,
        old_logits=predict_logits(classifier, all_features),
        new_logits=torch.zeros(0),
        class_counts=counts,
    )
    unit = torch.nn.functional.normalize
    cosines = unit(all_features, dim=1) @ unit(_centres(study, known), dim=1).T
    return study._replace(new_logits=GENERATOR_SCALE * cosines)


def _exemplars(view: LabelledView, per_class: int | None, context: Context) -> Tensor:
    """Return positions of the rehearsed images: all, or a seeded draw per class."""
    if per_class is None:
        return torch.arange(len(view.labels))
    rng = np.random.default_rng(context.generator("update", "exemplars").initial_seed())
    chosen = [
        rng.permutation(np.flatnonzero(view.labels == c))[:per_class]
        for c in range(view.num_classes)
    ]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def _centres(study: _Study, num_known: int) -> Tensor:
    """Return the weighted mean feature of each new cluster: ``[K, D]``."""
    rows = []
    for label in range(num_known, len(study.class_counts)):
        inside = study.labels == label
        weight = study.weights[inside, None]
        rows.append((study.features[inside] * weight).sum(0) / weight.sum())
    return torch.stack(rows)


def _objective(
    settings: Update, study: _Study, rows: Tensor, features: Tensor, logits: Tensor, progress: float
) -> Tensor:
    """Return classification loss plus distillation on the samples ``rows`` of the study.

    All is on one device: a copy in every step would wait for it.
    """
    classification: Tensor = settings.loss.supplied(
        {
            "logits": logits,
            "features": features,
            "labels": study.labels[rows],
            "class_counts": study.class_counts,
            "progress": progress,
        }
    )
    distillation: Tensor = settings.distiller.supplied(
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


def _phase(settings: Update, progress: float) -> Hashable | None:
    """Return what of a step depends on progress (see `Kept`)."""
    moving = "progress" in settings.distiller.takes()
    return None if moving else settings.loss.phase(progress)


def _moved(study: _Study, context: Context) -> _Study:
    """Return the study on the device of the stage."""
    return _Study(*(tensor.to(context.device) for tensor in study))


def _drawn(settings: Update, study: _Study, epoch: int, generator: torch.Generator) -> Tensor:
    """Return an epoch's rows of the study: the sampler's, by each pseudo-label's weight."""
    epochs = settings.training.epochs
    available = {
        "labels": study.labels,
        "class_counts": study.class_counts,
        "progress": epoch / max(1, epochs - 1),
        "epochs": epochs,
        "generator": generator,
    }
    wanted: Tensor = settings.sampler.supplied(available)
    return weighted_positions(wanted, study.weights, labels=study.labels, generator=generator)


def _train_head(
    student: _Student, settings: Update, study: _Study, context: Context, round_number: int
) -> None:
    """Phase A: the trunk is frozen (its cached features are used), the head learns."""
    training = settings.training
    there, offset = _moved(study, context), student.offset.to(context.device)

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
        [Group(list(student.head.parameters()))],
        epoch_batches=epoch_batches,  # type: ignore[arg-type]
        steps_per_epoch=lambda epoch: len(batches(epoch)),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="update/head",
        kept=Kept(
            {"head": student.head},
            name=f"update/head-{round_number}",
            phase=partial(_phase, settings),
        ),
    )
    student.head.eval()


def _train_trunk(
    student: _Student,
    settings: Update,
    study: _Study,
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
    there, offset = _moved(study, context), student.offset.to(context.device)
    student.head.eval().requires_grad_(False)
    # where each image's row is in the study, to find its teachers' logits again
    lookup = torch.zeros(sum(len(v.indices) for v in views), dtype=torch.int64)
    lookup[study.rows] = torch.arange(len(study.rows))
    lookup = lookup.to(context.device)

    @lru_cache(maxsize=1)
    def drawn(epoch: int) -> tuple[Tensor, torch.Generator]:
        draw = context.generator("update", "trunk", round_number, epoch)
        return _drawn(settings, study, epoch, draw), draw

    def epoch_batches(epoch: int) -> object:
        student.trunk.train()
        chosen, draw = drawn(epoch)
        names = ("update", "augmentation", round_number, epoch)
        return own_epoch(loader, study.rows[chosen], draw, context, *names)

    def batch_loss(batch: Batch, progress: float) -> Tensor:
        rows = lookup[batch.positions]
        features = student.trunk(batch.images)
        logits = student.head(features) + offset
        return _objective(settings, there, rows, features, logits, progress)

    fit(
        [Group(list(student.trunk.parameters()), settings.trunk_lr_factor)],
        epoch_batches=epoch_batches,  # type: ignore[arg-type]
        steps_per_epoch=lambda epoch: num_steps(len(drawn(epoch)[0]), training.batch_size),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="update/trunk",
        kept=Kept(
            {"trunk": student.trunk, "head": student.head},
            name=f"update/trunk-{round_number}",
            phase=partial(_phase, settings),
        ),
    )
    student.trunk.eval()
    student.head.requires_grad_(True)


def _stack(views: tuple[LabelledView, ImageView]) -> ImageView:
    """Return one image view over the known training images followed by the pool."""
    known, pool = views
    images = np.concatenate([known.images[known.indices], pool.images[pool.indices]])
    return ImageView(images, np.arange(len(images)), f"{known.digest}+{pool.digest}")


def _features(trunk: Trunk, views: tuple[LabelledView, ImageView], context: Context) -> Tensor:
    """Return features of known training images and pool under the present trunk."""
    parts = [extract_features(trunk, view, device=context.device).cpu() for view in views]
    return torch.cat(parts)
