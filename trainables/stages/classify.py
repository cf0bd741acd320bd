"""Stage 2: the first classifier, trained with the trunk on the long-tailed known classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from trainables.artifacts import Backbone, Classifier, ImageView, LabelledView
from trainables.context import Context, FeatureStore
from trainables.data.loader import Batch
from trainables.experiment import Classify
from trainables.models.backbone import extract_views, to_artifact
from trainables.models.contrastive_module import ContrastiveModule
from trainables.models.precision import ComputeFormat, compute_format
from trainables.models.trunks.blocks import training_mode
from trainables.training.classify_loss import StepLoss
from trainables.training.classify_model import (
    ClassifyModel,
    build_companion,
    build_model,
    of_features,
    on_features,
    predict_view,
    tuner_of,
    validation_accuracy,
)
from trainables.training.distributed import synchronise_batchnorm
from trainables.training.loop import TrainingState, fit
from trainables.training.phases import Phase, Reports, phases_of, train_phases
from trainables.training.self_training import Lesson, self_labelled
from trainables.training.step_batches import StepBatches
from trainables.weights.provenance import is_frozen, with_labels_of

PROVIDES: dict[str, frozenset[str]] = {
    "loss": frozenset(
        {"logits", "features", "labels", "class_counts", "progress"}
        | {"projections", "prototypes", "queue", "queue_labels", "class_means", "expert_logits"}
    ),
    "sampler": frozenset({"labels", "class_counts", "progress", "epochs", "generator"}),
    "augmentation": frozenset({"images", "generator"}),
    "branches": frozenset(
        {"features", "labels", "second_features", "second_labels", "progress"}
        | {"class_counts", "epochs", "generator"}  # what a second sampler may ask for
    ),
    "mixing": frozenset(
        {"images", "labels", "class_counts", "progress", "generator"} | {"class_activation"}
    ),
    "self_trainer": frozenset({"logits"}),
}


class Classified(NamedTuple):
    """What the stage gives."""

    backbone: Backbone
    classifier: Classifier


def run(
    settings: Classify,
    *,
    backbone: Backbone,
    known_train: LabelledView,
    validation_known: LabelledView,
    unlabelled: ImageView | None = None,
    context: Context,
) -> Classified:
    """Train trunk and head together; report loss and accuracies per epoch.

    A trunk that is frozen comes back as it was; its head learns on stored features.
    ``unlabelled`` is handed over for a self-trainer only. Then a first classifier, the teacher, is
    trained as if there were no such images, and the one that is returned starts afresh from the
    same trunk. Its ``class_counts`` are those of the labelled images.
    """
    lesson = Lesson(known_train)
    earlier: dict[str, float] = {}
    if unlabelled is not None:
        name = "classify/teacher"
        teacher, earlier = _learn(settings, backbone, lesson, validation_known, context, name)
        lesson = self_labelled(
            settings.self_trainer,
            predict_view(teacher, unlabelled, context.device),
            known=known_train,
            unlabelled=unlabelled,
            context=context,
        )
    model, spent = _learn(settings, backbone, lesson, validation_known, context, "classify")
    classifier = Classifier(
        head=settings.head,
        num_features=model.trunk.num_features,
        state={name: tensor.detach().cpu() for name, tensor in model.head.state_dict().items()},
        logit_offset=torch.zeros(known_train.num_classes),
        class_counts=Lesson(known_train).class_counts,
        feature_mean=model.mean.cpu(),
        train_cost={name: value + earlier.get(name, 0.0) for name, value in spent.items()},
    )
    if not tuner_of(settings, backbone).moves:  # it learned nothing of these labels
        return Classified(backbone, classifier)
    trained = to_artifact(model.trunk, model.architecture, backbone.image_size, before=backbone)
    return Classified(with_labels_of(trained, known_train), classifier)


def _learn(
    settings: Classify,
    backbone: Backbone,
    lesson: Lesson,
    validation: LabelledView,
    context: Context,
    name: str,
) -> tuple[ClassifyModel, dict[str, float]]:
    """Build a model on a trunk and train it by the stage's settings and by those that follow.

    Returns the model, and the optimizer steps and images drawn, by which scores are compared.
    ``name`` stands before the metrics.
    """
    model = build_model(settings, backbone, lesson.view, context)
    tuner = tuner_of(settings, backbone)
    if not tuner.moves and not settings.training.epochs:  # features would be of no use
        return model, {"classify_steps": 0.0, "classify_samples": 0.0}
    if not tuner.moves:
        store = context.features if is_frozen(backbone) else None
        return _learn_on_features(settings, model, lesson, validation, context, name, store)
    spent = _train_phases(settings, model, lesson, validation, context, name)
    tuner.finish(model.trunk)
    return model, spent


def _learn_on_features(
    settings: Classify,
    model: ClassifyModel,
    lesson: Lesson,
    validation: LabelledView,
    context: Context,
    name: str,
    store: FeatureStore | None,
) -> tuple[ClassifyModel, dict[str, float]]:
    """Train the head alone, on features that the trunk gives once, of images as they are."""
    whole = (lesson.view, validation)
    found = extract_views(model.trunk, whole, context=context, store=store)
    views = [of_features(features, view) for features, view in zip(found, whole, strict=True)]
    head, stored = on_features(model, views[0]), Lesson(views[0], lesson.weights, augmented=False)
    return model, _train_phases(settings, head, stored, views[1], context, name)


def _train_phases(
    settings: Classify,
    model: ClassifyModel,
    lesson: Lesson,
    validation: LabelledView,
    context: Context,
    name: str,
) -> dict[str, float]:
    """Train a model, in place, by the stage's settings and by those that follow.

    Returns the optimizer steps and images drawn, by which scores are compared.
    """
    phases = phases_of(settings, context, name)
    first = StepBatches(phases[0].settings, lesson, model.views, context)
    precision = compute_format(settings.training.precision, settings.training.layout)
    if settings.training.sync_batchnorm:
        synchronise_batchnorm(model.trunk, context)
    model.trunk.to(memory_format=precision.memory_format)
    companions = _companions(model, phases, lesson)

    def train(phase: Phase, earlier: Reports) -> Reports:
        own, batches = model._replace(companion=companions[phase.number]), first
        if phase.number:
            batches = StepBatches(phase.settings, lesson, own.views, phase.context)
            batches.share_images(first)
        return _train(own, phase, earlier, batches, validation, precision, name)

    reports = train_phases(phases, context, train)
    drawn = sum(report.get(f"{name}/samples_per_epoch", 0.0) for report in reports)
    steps = reports[-1][f"{name}/steps"] if reports else 0.0
    return {"classify_steps": steps, "classify_samples": drawn}


def _companions(
    model: ClassifyModel, phases: Sequence[Phase], lesson: Lesson
) -> list[ContrastiveModule | None]:
    """Return what each training's loss trains beside the model; the same loss goes on with it."""
    found = [model.companion]
    sizes = model.trunk.num_features, lesson.view.num_classes
    for before, phase in pairwise(phases):
        if phase.settings.loss == before.settings.loss:
            found.append(found[-1])
        else:
            found.append(build_companion(phase.settings, *sizes, phase.context))
    return found


def _train(
    model: ClassifyModel,
    phase: Phase,
    earlier: Reports,
    batches: StepBatches,
    validation: LabelledView,
    precision: ComputeFormat,
    name: str,
) -> Reports:
    """Train a model by the settings of one phase."""
    settings, context = phase.settings, phase.context

    def epoch_batches(epoch: int) -> Iterator[tuple[Batch, Batch | None]]:
        training_mode(model.trunk)
        model.head.train()
        model.forget_hits()
        if model.companion is not None:
            model.companion.start_epoch()
        return batches.epoch(epoch)

    def after_epoch(epoch: int) -> dict[str, float]:
        found = {
            "samples_per_epoch": float(batches.length(epoch)),
            "trainable_share": model.trainable_share,
            "train_accuracy": model.train_accuracy(),
            # None: the recipe gives every image to the training
            "validation_accuracy": validation_accuracy(model, validation, context.device),
        }
        return {f"{name}/{key}": value for key, value in found.items() if value is not None}

    reports = fit(
        model.groups(),
        epoch_batches=epoch_batches,
        steps_per_epoch=batches.steps,
        batch_loss=StepLoss(model, settings, batches, precision.memory_format, context),
        training=settings.training,
        context=context,
        stage=name,
        dtype=precision.dtype,
        after_epoch=after_epoch,
        state=TrainingState(
            model.modules(),
            {"mean": model.mean, "hits": model.hits},
            name=phase.name,
            trunk=None if settings.branches.trunk_ending else model.trunk,
            earlier=earlier,
        ),
    )
    model.trunk.eval()
    model.head.eval()
    return reports
