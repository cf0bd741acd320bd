"""Stage `update`: one model that knows the new classes, by distillation or in closed form."""

from __future__ import annotations

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
    StreamFeatures,
)
from trainables.context import Context
from trainables.experiment import Update
from trainables.features.predict import head_module, predict_logits
from trainables.functional.class_means import weighted_class_means
from trainables.functional.to_device import to_device
from trainables.models.backbone import Trunk, extract_features, from_artifact, to_artifact
from trainables.training.distributed import (
    share_state,
)
from trainables.training.student import (
    DistillationSet,
    Student,
    train_head,
    train_trunk,
)
from trainables.weights.provenance import with_labels_of

PROVIDES: dict[str, frozenset[str]] = {
    "method": frozenset(
        {"classifier", "features", "labels", "weights", "groups", "class_counts"}
        | {"num_labelled", "report"}
    ),
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


def run(
    settings: Update,
    *,
    backbone: Backbone,
    classifier: Classifier,
    features: Features,
    stream_features: StreamFeatures,
    known_train: LabelledView,
    pool: ImageView,
    pseudo_labels: PseudoLabels,
    context: Context,
) -> Updated:
    """Return a model that knows the new classes too.

    A closed form gives the classifier at once. By distillation, the student starts as a copy of the
    old model with a grown head (`trainables.methods.updaters.distill`), and both teachers are
    distilled into it. Without new classes the old model is returned unchanged.
    """
    if pseudo_labels.num_new_clusters == 0:
        return Updated(backbone, classifier)
    parts = (features.known_train, stream_features.pool)
    study = _gather(settings, classifier, parts, known_train, pseudo_labels, context)
    first = _classifier_of_all(settings, classifier, study, known_train, context)
    first = first._replace(oracle=pseudo_labels.oracle or classifier.oracle)
    if not settings.method.trains:
        return Updated(backbone, first)
    head = head_module(first).to(context.device)
    trunk = from_artifact(backbone, drop_path=settings.trunk.stochastic_depth)
    student = Student(trunk.to(context.device), head, first.logit_offset)
    for round_number in range(settings.rounds):
        if context.rank == 0:  # on cached features: sharing it out would cost more than it saves
            train_head(student, settings, study, context.alone(), round_number)
        share_state(student.head, context)
        if settings.mode == "full":
            train_trunk(student, settings, study, (known_train, pool), context, round_number)
            refreshed = _features(student.trunk, (known_train, pool), context)
            study = study._replace(features=refreshed[study.rows])
    state = {name: tensor.detach().cpu() for name, tensor in head.state_dict().items()}
    grown = first._replace(state=state)
    if settings.mode != "full":
        return Updated(backbone, grown)
    moved = to_artifact(student.trunk, backbone.architecture, backbone.image_size, before=backbone)
    if pseudo_labels.oracle:  # true labels of the pool
        moved = with_labels_of(moved, pool)
    return Updated(moved, grown)


def _classifier_of_all(
    settings: Update,
    classifier: Classifier,
    study: DistillationSet,
    known_train: LabelledView,
    context: Context,
) -> Classifier:
    """Return the updater's classifier of known and new classes, on the CPU."""
    available = {
        "classifier": classifier,
        "features": study.features,
        "labels": study.labels,
        "weights": study.weights,
        "class_counts": study.class_counts,
        "groups": _groups(known_train, study.rows),
        "num_labelled": int((study.rows < len(known_train.indices)).sum()),
        "report": context.report,
    }
    where = "cpu" if settings.method.trains else context.device  # growing a head computes little
    found: Classifier = settings.method.call_with(to_device(available, where))
    return to_device(found, "cpu")


def _groups(known_train: LabelledView, rows: Tensor) -> Tensor | None:
    """Return the group of each row, each image of the pool alone; ``None``: all are alone."""
    if known_train.groups is None:
        return None
    groups = torch.from_numpy(known_train.groups)
    alone = groups.max() + 1 + rows
    return torch.where(rows < len(groups), groups[rows.clamp_max(len(groups) - 1)], alone)


def _gather(
    settings: Update,
    classifier: Classifier,
    features: tuple[Tensor, Tensor],
    known_train: LabelledView,
    pseudo_labels: PseudoLabels,
    context: Context,
) -> DistillationSet:
    """Put exemplars and pseudo-labelled pool samples together, with both teachers' logits.

    ``features`` are those of the known training images and of the pool.
    """
    exemplars = _exemplars(known_train, settings.exemplars_per_class, context)
    kept = pseudo_labels.weights > 0
    positions = pseudo_labels.positions[kept]
    all_features = torch.cat([features[0][exemplars], features[1][positions]])
    labels = torch.cat(
        [torch.from_numpy(known_train.labels)[exemplars], pseudo_labels.labels[kept]]
    )
    weights = torch.cat([torch.ones(len(exemplars)), pseudo_labels.weights[kept].float()])
    known = len(classifier.class_counts)
    counts = torch.bincount(labels, minlength=known + pseudo_labels.num_new_clusters)
    study = DistillationSet(
        rows=torch.cat([exemplars, len(known_train.indices) + positions]),
        labels=labels,
        weights=weights,
        features=all_features,
        old_features=all_features,
        old_logits=predict_logits(classifier, all_features),
        new_logits=torch.zeros(0),
        class_counts=counts,
    )
    centers = weighted_class_means(all_features, labels, weights, range(known, len(counts)))
    unit = torch.nn.functional.normalize
    cosines = unit(all_features, dim=1) @ unit(centers, dim=1).T
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


def _features(trunk: Trunk, views: tuple[LabelledView, ImageView], context: Context) -> Tensor:
    """Return features of known training images and pool under the present trunk."""
    parts = [extract_features(trunk, view, device=context.device).cpu() for view in views]
    return torch.cat(parts)
