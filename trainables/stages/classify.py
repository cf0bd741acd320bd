"""Stage 2: the first classifier, trained with the trunk on the long-tailed known classes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.activation_maps import class_activation
from trainables.artifacts import Backbone, Classifier, ImageView, LabelledView
from trainables.backbone import Trunk, branch_trunk, extract_features, from_artifact, to_artifact
from trainables.branching import Joined
from trainables.companion import Companion
from trainables.context import Context, ambient_rng
from trainables.distributed import gathered, synchronise_batchnorm
from trainables.experiment import Classify
from trainables.experts import ExpertsHead
from trainables.loader import Batch
from trainables.loop import Group, Kept, choose_precision, fit
from trainables.methods.losses import Loss
from trainables.methods.mixers import Mixer
from trainables.mixed_batch import mixed_features, mixed_loss
from trainables.mixing import Mix
from trainables.phases import Turn, train_in_turn, turns_of
from trainables.precision import Precision
from trainables.self_training import Lesson, self_labelled
from trainables.step_batches import StepBatches

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
MEAN_MOMENTUM = 0.9  # of the moving average of features (Tang et al. 2020)


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
    """Train trunk and head together; report loss and validation accuracy per epoch.

    ``unlabelled`` is handed over for a self-trainer only. Then a first classifier, the teacher, is
    trained as if there were no such images, and the one that is returned starts afresh from the
    same trunk. Its ``class_counts`` are those of the labelled images.
    """
    lesson, first = Lesson(known_train), None
    if unlabelled is not None:
        first = _learn(settings, backbone, lesson, validation_known, context, "classify/teacher")
        logits = _logits(first.model, unlabelled, context)
        lesson = self_labelled(
            settings.self_trainer, logits, known=known_train, unlabelled=unlabelled, context=context
        )
    learned = _learn(settings, backbone, lesson, validation_known, context, "classify")
    earlier = {} if first is None else first.spent
    spent = {name: value + earlier.get(name, 0.0) for name, value in learned.spent.items()}
    return classified(learned._replace(spent=spent), settings, backbone, known_train)


class Model(NamedTuple):
    """What is trained together; ``mean [D]`` is the moving average of features, in place.

    ``companion`` is what a contrastive loss trains beside the model.
    """

    trunk: Trunk
    head: torch.nn.Module
    mean: Tensor
    companion: Companion | None = None

    @property
    def views(self) -> int:
        """How many random views of each image are in a batch."""
        return 1 if self.companion is None else self.companion.views

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return what is trained, by name."""
        parts = {"trunk": self.trunk, "head": self.head, "companion": self.companion}
        return {name: part for name, part in parts.items() if part is not None}


class Learned(NamedTuple):
    """A trained model, its trunk's architecture, and how long it was trained."""

    model: Model
    architecture: str
    spent: dict[str, float]


def _learn(
    settings: Classify,
    backbone: Backbone,
    lesson: Lesson,
    validation: LabelledView,
    context: Context,
    name: str,
) -> Learned:
    """Build a model on a trunk and train it; ``name`` stands before its metrics."""
    model, architecture = build_model(settings, backbone, lesson, context)
    reports = _train_in_turn(model, settings, lesson, validation, context, name)
    return Learned(model, architecture, iterations(reports, name))


def build_model(
    settings: Classify, backbone: Backbone, lesson: Lesson, context: Context
) -> tuple[Model, str]:
    """Return a model on a trunk, before its training, and the name of its architecture."""
    trunk, architecture = _branched(backbone, settings, context)
    classes = lesson.view.num_classes
    with ambient_rng(context.generator("classify", "head")):
        head = settings.head.build(trunk.num_features, classes).to(context.device)
    with ambient_rng(context.generator("classify", "companion")):
        companion = settings.loss.build(trunk.num_features, classes)
    mean = torch.zeros(trunk.num_features, device=context.device)
    model = Model(trunk, head, mean, companion and companion.to(context.device))
    if any("class_activation" in phase.mixing.needs() for phase in settings.phases()):
        _check_activation(model, lesson.view, context)
    return model, architecture


def classified(
    learned: Learned, settings: Classify, backbone: Backbone, known_train: LabelledView
) -> Classified:
    """Return what the stage gives, of a trained model and what it was made from."""
    model = learned.model
    classifier = Classifier(
        head=settings.head,
        num_features=model.trunk.num_features,
        state={name: tensor.detach().cpu() for name, tensor in model.head.state_dict().items()},
        logit_offset=torch.zeros(known_train.num_classes),
        class_counts=Lesson(known_train).class_counts,
        feature_mean=model.mean.cpu(),
        training=learned.spent,
    )
    trained = to_artifact(
        model.trunk, learned.architecture, backbone.image_size, backbone.pretrained_on
    )
    return Classified(trained, classifier)


def _train_in_turn(
    model: Model,
    settings: Classify,
    lesson: Lesson,
    validation: LabelledView,
    context: Context,
    name: str,
) -> list[dict[str, float]]:
    """Train a model by the stage's settings, then by each of those that follow."""
    turns, size = turns_of(settings, context, name), int(lesson.view.images.shape[1])
    first = StepBatches(turns[0].settings, lesson, model.views, context)
    precision = choose_precision(
        model.trunk,
        settings.training,
        image_size=size,
        budget_images=first.length(0) * sum(turn.settings.training.epochs for turn in turns),
        context=context,
        stage=name.replace("/", "-"),
    )
    if settings.training.sync_batchnorm:
        synchronise_batchnorm(model.trunk, context)
    model.trunk.to(memory_format=precision.memory_format)
    companions = _companions(model, turns, lesson)

    def train(turn: Turn, earlier: list[dict[str, float]]) -> list[dict[str, float]]:
        own, batches = model._replace(companion=companions[turn.number]), first
        if turn.number:
            batches = StepBatches(turn.settings, lesson, own.views, turn.context)
            batches.share_images(first)
        return _train(own, turn, earlier, batches, validation, precision, name)

    return train_in_turn(turns, context, train)


def _companions(model: Model, turns: Sequence[Turn], lesson: Lesson) -> list[Companion | None]:
    """Return what each training's loss trains beside the model; the same loss goes on with it."""
    found = [model.companion]
    for before, turn in pairwise(turns):
        if turn.settings.loss == before.settings.loss:
            found.append(found[-1])
            continue
        with ambient_rng(turn.context.generator("classify", "companion")):
            new = turn.settings.loss.build(model.trunk.num_features, lesson.view.num_classes)
        found.append(new and new.to(turn.context.device))
    return found


def _train(
    model: Model,
    turn: Turn,
    earlier: list[dict[str, float]],
    batches: StepBatches,
    validation: LabelledView,
    precision: Precision,
    name: str,
) -> list[dict[str, float]]:
    """Train a model by the settings of one turn."""
    settings, context = turn.settings, turn.context
    dtype, layout = precision
    on_device = {"class_counts": batches.counts.to(context.device)}
    ways = (0, 1) if settings.branches.trunk_ending else (None, None)

    def batch_loss(pair: tuple[Batch, Batch | None], progress: float) -> Tensor:
        first, second = pair
        images = first.images.contiguous(memory_format=layout)
        given: dict[str, Any] = {"images": images, "labels": first.labels, "progress": progress}
        given |= on_device
        mix = _mix(model, settings.mixing, given, batches.mixing)
        given |= {"mix": mix, "features": _features(model.trunk, images, mix, branch=ways[0])}
        if second is not None:
            images = second.images.contiguous(memory_format=layout)
            given["second_features"] = _features(model.trunk, images, None, branch=ways[1])
            given["second_labels"] = second.labels
        joined: Joined = settings.branches.supplied(given)
        model.mean.mul_(MEAN_MOMENTUM).add_(joined.observed.float().mean(0))
        return _objective(model, settings.loss, joined, given, context)

    def epoch_batches(epoch: int) -> Iterator[tuple[Batch, Batch | None]]:
        model.trunk.train()
        model.head.train()
        if model.companion is not None:
            model.companion.start_epoch()
        return batches.epoch(epoch)

    reports = fit(
        [Group([p for part in model.modules().values() for p in part.parameters()])],
        epoch_batches=epoch_batches,
        steps_per_epoch=batches.steps,
        batch_loss=batch_loss,
        training=settings.training,
        context=context,
        stage=name,
        dtype=dtype,
        after_epoch=lambda epoch: {
            f"{name}/samples_per_epoch": float(batches.length(epoch)),
            **validate(model, validation, context, name),
        },
        kept=Kept(
            model.modules(),
            {"mean": model.mean},
            name=turn.name,
            phase=partial(step_phase, settings),
            earlier=earlier,
        ),
    )
    model.trunk.eval()
    model.head.eval()
    return reports


def step_phase(settings: Classify, progress: float) -> Hashable | None:
    """Return what of a step depends on progress (see `Kept`); mixtures are drawn on the CPU."""
    plain = settings.mixing.name == "none" and settings.branches.name == "none"
    return settings.loss.phase(progress) if plain else None


def _check_activation(model: Model, view: LabelledView, context: Context) -> None:
    """Look at one image, so that a model without activation maps is refused before training."""
    image = torch.from_numpy(view.images[view.indices[:1]]).permute(0, 3, 1, 2)
    label = torch.from_numpy(view.labels[:1])
    class_activation(model.trunk, model.head, image.to(context.device), label.to(context.device))


def _mix(
    model: Model, mixing: Mixer, given: dict[str, Any], generator: torch.Generator
) -> Mix | None:
    """Return how a batch is mixed; ``given`` has its images and labels."""
    seen = partial(class_activation, model.trunk, model.head, given["images"], given["labels"])
    mix: Mix | None = mixing.supplied({**given, "class_activation": seen, "generator": generator})
    return mix


def iterations(reports: list[dict[str, float]], name: str) -> dict[str, float]:
    """Return optimiser steps and images drawn in all, which scores are to be compared by."""
    drawn = sum(report.get(f"{name}/samples_per_epoch", 0.0) for report in reports)
    steps = reports[-1][f"{name}/steps"] if reports else 0.0
    return {"classify_steps": steps, "classify_samples": drawn}


def _branched(backbone: Backbone, settings: Classify, context: Context) -> tuple[Trunk, str]:
    """Return the trunk and the name of its architecture, with the branches that are asked for."""
    trunk, architecture = from_artifact(backbone), backbone.architecture
    ending = settings.branches.trunk_ending or settings.head.trunk_ending
    if ending and not architecture.endswith(f"+{ending}"):
        architecture = f"{architecture}+{ending}"
        draws = context.generator("classify", "branches")
        trunk = branch_trunk(trunk, architecture, generator=draws)
    return trunk.to(context.device), architecture


def _features(trunk: Trunk, images: Tensor, mix: Mix | None, *, branch: int | None) -> Tensor:
    """Return the features of a batch, mixed where ``mix`` says, or those of one branch."""
    if branch is not None:
        return trunk.forward_branch(images, branch)
    return mixed_features(trunk, images, mix)


def _objective(
    model: Model, loss: Loss, joined: Joined, given: dict[str, Any], context: Context
) -> Tensor:
    """Return the loss of a step; ``given`` has labels and what goes with them."""
    features, labels = joined.features, joined.labels
    available = {**given, "features": features, "labels": labels, "logits": model.head(features)}
    if isinstance(model.head, ExpertsHead):
        available["expert_logits"] = model.head.each(features)
    if model.companion is not None:
        available |= _compared(model.companion, joined, available, context)
    value = mixed_loss(loss, available, given["mix"])
    if joined.share == 1.0:
        return value
    other = mixed_loss(loss, {**available, "labels": joined.second_labels}, None)
    return joined.share * value + (1 - joined.share) * other


def _compared(
    companion: Companion, joined: Joined, own: dict[str, Any], context: Context
) -> dict[str, Tensor]:
    """Return what a loss that compares samples gets: the rows of all workers, on each of them."""
    whole = {name: gathered(own[name], context) for name in ("logits", "features", "labels")}
    labels = gathered(joined.compared_labels, context)
    projections = gathered(companion(joined.compared), context)
    return {**whole, **companion.supply(projections, labels), "projection_labels": labels}


@torch.no_grad()
def _logits(model: Model, view: LabelledView | ImageView, context: Context) -> Tensor:
    """Return the logits of a whole view on the CPU, without augmentation."""
    model.head.eval()
    features = extract_features(model.trunk, view, device=context.device)
    logits: Tensor = model.head(features.to(context.device))
    return logits.cpu()


def validate(model: Model, view: LabelledView, context: Context, name: str) -> dict[str, float]:
    """Return the mean of per-class accuracies on a labelled view."""
    correct = (_logits(model, view, context).argmax(1).numpy() == view.labels).astype(float)
    per_class = [
        correct[view.labels == c].mean()
        for c in range(view.num_classes)
        if (view.labels == c).any()
    ]
    if not per_class:  # a recipe that gives every image to the training
        return {}
    return {f"{name}/validation_accuracy": float(sum(per_class) / len(per_class))}
