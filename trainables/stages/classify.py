"""Stage 2: the first classifier, trained with the trunk on the long-tailed known classes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.activation_maps import class_activation
from trainables.artifacts import Backbone, Classifier, LabelledView
from trainables.backbone import Trunk, branch_trunk, extract_features, from_artifact, to_artifact
from trainables.branching import Joined
from trainables.companion import Companion
from trainables.context import Context, ambient_rng
from trainables.distributed import gathered, own_epoch, share_of_batch, synchronise_batchnorm
from trainables.experiment import Classify
from trainables.experts import ExpertsHead
from trainables.loader import Batch, Loader, draw_positions
from trainables.loop import Group, Kept, choose_precision, fit, num_steps
from trainables.methods.losses import Loss
from trainables.methods.mixers import Mixer
from trainables.methods.samplers import Sampler
from trainables.mixed_batch import mixed_features, mixed_loss
from trainables.mixing import Mix

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
    trunk, architecture = _branched(backbone, settings, context)
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
    trained = to_artifact(trunk, architecture, backbone.image_size, backbone.pretrained_on)
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
    training = settings.training
    batches = _Batches(settings, view, counts, model.views, context)
    dtype, layout = choose_precision(
        model.trunk,
        training,
        image_size=int(view.images.shape[1]),
        budget_images=batches.length(0) * training.epochs,
        context=context,
        stage="classify",
    )
    if training.sync_batchnorm:
        synchronise_batchnorm(model.trunk, context)
    model.trunk.to(memory_format=layout)
    on_device = {"class_counts": counts.to(context.device)}
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
        training=training,
        context=context,
        stage="classify",
        dtype=dtype,
        after_epoch=lambda epoch: {
            "classify/samples_per_epoch": float(batches.length(epoch)),
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


class _Batches:
    """What is drawn and served in each epoch: a batch per step, or two (see `Branches`).

    ``mixing`` is the epoch's generator of mixtures.
    """

    def __init__(
        self,
        settings: Classify,
        view: LabelledView,
        counts: Tensor,
        views: int,
        context: Context,
    ) -> None:
        self.settings, self.counts, self.context = settings, counts, context
        self.labels = torch.from_numpy(view.labels)
        self.mixing = torch.Generator()
        self.other_sampler = settings.branches.other_sampler()
        share = share_of_batch(settings.training.batch_size, context, "classify")
        self.loader = Loader(
            view,
            batch_size=share,
            augmentation=settings.augmentation,
            views=views,
            device=context.device,
        )
        self.other_loader = copy(self.loader)  # the images are on the device once
        self.other_loader.views = 1
        self.drawn = lru_cache(maxsize=1)(lambda epoch: self._drawn(settings.sampler, epoch))

    def steps(self, epoch: int) -> int:
        """Return the steps of an epoch, on all workers together."""
        return num_steps(len(self.drawn(epoch)[0]), self.settings.training.batch_size)

    def length(self, epoch: int) -> int:
        """Return how many images pass the network in an epoch, on all workers together."""
        other = self.other_loader.views if self.other_sampler is not None else 0
        return len(self.drawn(epoch)[0]) * (self.loader.views + other)

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, Batch | None]]:
        """Yield this worker's batches of an epoch."""
        positions, order = self.drawn(epoch)
        # not the worker's own: all mix with one share
        self.mixing = self.context.generator("classify", "mixing", epoch)
        names = ("classify", "augmentation", epoch)
        first = own_epoch(self.loader, positions, order, self.context, *names)
        if self.other_sampler is None:
            return ((batch, None) for batch in first)
        drawn, order = self._drawn(self.other_sampler, epoch, "second")
        # both run out together: an index stream has a length of its own
        drawn = drawn.repeat(-(-len(positions) // len(drawn)))[: len(positions)]
        names = ("classify", "second augmentation", epoch)
        second = own_epoch(self.other_loader, drawn, order, self.context, *names)
        return zip(first, second, strict=True)

    def _drawn(self, sampler: Sampler, epoch: int, *names: str) -> tuple[Tensor, torch.Generator]:
        """Return the positions of an epoch, alike on all workers, and the generator they leave."""
        epochs = self.settings.training.epochs
        order = self.context.generator("classify", *names, "order", epoch)
        wanted = sampler.supplied(
            {
                "labels": self.labels,
                "class_counts": self.counts,
                "progress": epoch / max(1, epochs - 1),
                "epochs": epochs,
                "generator": order,
            }
        )
        return draw_positions(wanted, len(self.labels), order), order


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
    model: _Model, loss: Loss, joined: Joined, given: dict[str, Any], context: Context
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
