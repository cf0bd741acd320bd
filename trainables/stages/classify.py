"""Stage 2: the first classifier, trained with the trunk on the long-tailed known classes."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.activation_maps import class_activation
from trainables.artifacts import Backbone, Classifier, LabelledView
from trainables.backbone import Trunk, extract_features, from_artifact, to_artifact
from trainables.companion import Companion
from trainables.context import Context, ambient_rng
from trainables.distributed import gathered, own_epoch, share_of_batch, synchronise_batchnorm
from trainables.experiment import Classify
from trainables.loader import Batch, Loader, draw_positions
from trainables.loop import Group, Kept, choose_precision, fit, num_steps
from trainables.methods.losses import Loss
from trainables.methods.mixers import Mixer
from trainables.mixed_batch import mixed_features, mixed_loss
from trainables.mixing import Mix

PROVIDES: dict[str, frozenset[str]] = {
    "loss": frozenset(
        {"logits", "features", "labels", "class_counts", "progress"}
        | {"projections", "prototypes", "queue", "queue_labels"}
    ),
    "sampler": frozenset({"labels", "class_counts", "progress", "epochs", "generator"}),
    "augmentation": frozenset({"images", "generator"}),
    "mixing": frozenset(
        {"images", "labels", "class_counts", "progress", "generator"} | {"class_activation"}
    ),
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
    context: Context,
) -> Classified:
    """Train trunk and head together; report loss and validation accuracy per epoch."""
    trunk = from_artifact(backbone).to(context.device)
    labels = torch.from_numpy(known_train.labels)
    counts = torch.bincount(labels, minlength=known_train.num_classes)
    with ambient_rng(context.generator("classify", "head")):
        head = settings.head.build(trunk.num_features, known_train.num_classes).to(context.device)
    with ambient_rng(context.generator("classify", "companion")):
        companion = settings.loss.build(trunk.num_features, known_train.num_classes)
    mean = torch.zeros(trunk.num_features, device=context.device)
    model = _Model(trunk, head, mean, companion and companion.to(context.device))
    if "class_activation" in settings.mixing.needs():
        _check_activation(model, known_train, context)
    reports = _train(model, settings, known_train, counts, validation_known, context)
    classifier = Classifier(
        head=settings.head,
        num_features=trunk.num_features,
        state={name: tensor.detach().cpu() for name, tensor in head.state_dict().items()},
        logit_offset=torch.zeros(known_train.num_classes),
        class_counts=counts,
        feature_mean=mean.cpu(),
        training=_iterations(reports),
    )
    trained = to_artifact(trunk, backbone.architecture, backbone.image_size, backbone.pretrained_on)
    return Classified(trained, classifier)


class _Model(NamedTuple):
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


def _train(
    model: _Model,
    settings: Classify,
    view: LabelledView,
    counts: Tensor,
    validation: LabelledView,
    context: Context,
) -> list[dict[str, float]]:
    training, device = settings.training, context.device

    @lru_cache(maxsize=1)
    def drawn(epoch: int) -> tuple[Tensor, torch.Generator]:
        return _drawn(settings, view, counts, context, epoch)

    share = share_of_batch(training.batch_size, context, "classify")
    options: dict[str, Any] = {"augmentation": settings.augmentation, "views": model.views}
    loader = Loader(view, batch_size=share, device=device, **options)
    dtype, layout = choose_precision(
        model.trunk,
        training,
        image_size=int(view.images.shape[1]),
        budget_images=model.views * len(drawn(0)[0]) * training.epochs,
        context=context,
        stage="classify",
    )
    if training.sync_batchnorm:
        synchronise_batchnorm(model.trunk, context)
    model.trunk.to(memory_format=layout)
    on_device = {"class_counts": counts.to(device)}
    draws = {"mixing": torch.Generator()}

    def batch_loss(batch: Batch, progress: float) -> Tensor:
        images = batch.images.contiguous(memory_format=layout)
        given = {"images": images, "labels": batch.labels, "progress": progress, **on_device}
        mix = _mix(model, settings.mixing, given, draws["mixing"])
        features = mixed_features(model.trunk, images, mix)
        model.mean.mul_(MEAN_MOMENTUM).add_(features.detach().float().mean(0))
        return _objective(model, settings.loss, features, {**given, "mix": mix}, context)

    def epoch_batches(epoch: int) -> object:
        model.trunk.train()
        model.head.train()
        positions, order = drawn(epoch)
        # not the worker's own: all mix with one share
        draws["mixing"] = context.generator("classify", "mixing", epoch)
        return own_epoch(loader, positions, order, context, "classify", "augmentation", epoch)

    reports = fit(
        [Group([p for part in model.modules().values() for p in part.parameters()])],
        epoch_batches=epoch_batches,  # type: ignore[arg-type]
        steps_per_epoch=lambda epoch: num_steps(len(drawn(epoch)[0]), training.batch_size),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="classify",
        dtype=dtype,
        after_epoch=lambda epoch: {
            "classify/samples_per_epoch": float(len(drawn(epoch)[0])),
            **_validate(model, validation, context),
        },
        kept=Kept(model.modules(), {"mean": model.mean}),
    )
    model.trunk.eval()
    model.head.eval()
    return reports


def _check_activation(model: _Model, view: LabelledView, context: Context) -> None:
    """Look at one image, so that a model without activation maps is refused before training."""
    image = torch.from_numpy(view.images[view.indices[:1]]).permute(0, 3, 1, 2)
    label = torch.from_numpy(view.labels[:1])
    class_activation(model.trunk, model.head, image.to(context.device), label.to(context.device))


def _mix(
    model: _Model, mixing: Mixer, given: dict[str, Any], generator: torch.Generator
) -> Mix | None:
    """Return how a batch is mixed; ``given`` has its images and labels."""
    seen = partial(class_activation, model.trunk, model.head, given["images"], given["labels"])
    mix: Mix | None = mixing.supplied({**given, "class_activation": seen, "generator": generator})
    return mix


def _iterations(reports: list[dict[str, float]]) -> dict[str, float]:
    """Return optimiser steps and images drawn in all, which scores are to be compared by."""
    drawn = sum(report.get("classify/samples_per_epoch", 0.0) for report in reports)
    steps = reports[-1]["classify/steps"] if reports else 0.0
    return {"classify_steps": steps, "classify_samples": drawn}


def _drawn(
    settings: Classify, view: LabelledView, counts: Tensor, context: Context, epoch: int
) -> tuple[Tensor, torch.Generator]:
    """Return the positions of an epoch, the same on all workers, and the generator they leave."""
    epochs = settings.training.epochs
    order = context.generator("classify", "order", epoch)
    wanted = settings.sampler.supplied(
        {
            "labels": torch.from_numpy(view.labels),
            "class_counts": counts,
            "progress": epoch / max(1, epochs - 1),
            "epochs": epochs,
            "generator": order,
        }
    )
    return draw_positions(wanted, len(view.labels), order), order


def _objective(
    model: _Model, loss: Loss, features: Tensor, given: dict[str, Any], context: Context
) -> Tensor:
    """Return the loss of a batch's features; ``given`` has labels and what goes with them."""
    available = {**given, "logits": model.head(features), "features": features}
    if model.companion is not None:
        available |= _compared(model.companion, available, context)
    return mixed_loss(loss, available, given["mix"])


def _compared(companion: Companion, own: dict[str, Any], context: Context) -> dict[str, Tensor]:
    """Return what a loss that compares samples gets: the rows of all workers, on each of them."""
    whole = {name: gathered(own[name], context) for name in ("logits", "features", "labels")}
    projections = gathered(companion(own["features"]), context)
    return {**whole, **companion.supply(projections, whole["labels"])}


@torch.no_grad()
def _validate(model: _Model, view: LabelledView, context: Context) -> dict[str, float]:
    """Return the mean of per-class accuracies on a labelled view."""
    model.head.eval()
    features = extract_features(model.trunk, view, device=context.device)
    correct = (model.head(features).argmax(1).cpu().numpy() == view.labels).astype(float)
    per_class = [
        correct[view.labels == c].mean()
        for c in range(view.num_classes)
        if (view.labels == c).any()
    ]
    if not per_class:  # a recipe that gives every image to the training
        return {}
    return {"classify/validation_accuracy": float(sum(per_class) / len(per_class))}
