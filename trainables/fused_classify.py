"""Stage 2 for several seeds at once: trainings that are equal but for what they draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Backbone, LabelledView
from trainables.checkpoints import decided
from trainables.context import Context
from trainables.experiment import Classify
from trainables.fused import NotFusedError, Stack, lacking, side_by_side
from trainables.fused_loop import Fleet, Member, fit_together
from trainables.loop import NonFiniteLossError, choose_precision
from trainables.precision import Precision
from trainables.self_training import Lesson
from trainables.stages.classify import (
    MEAN_MOMENTUM,
    Classified,
    Learned,
    Model,
    build_model,
    classified,
    iterations,
    step_phase,
    validate,
)
from trainables.step_batches import StepBatches

STAGE = "classify"


class Given(NamedTuple):
    """What one of the trainings gets; its context has the seed, and receives its reports."""

    backbone: Backbone
    known_train: LabelledView
    validation_known: LabelledView
    context: Context


class Batches(NamedTuple):
    """A batch of each model: images uint8 ``[M, B, 3, H, W]`` and labels ``[M, B]``."""

    images: Tensor
    labels: Tensor


def refusal(settings: Classify) -> str:
    """Return why trainings with these settings go on alone, or nothing: they may go together.

    Example:
        >>> from trainables.settings import assign
        >>> refusal(Classify())
        ''
        >>> refusal(assign(Classify(), {"training.optimizer": "adamw"}))
        "training.optimizer is 'adamw'; fused: 'sgd'"
    """
    training = settings.training
    checks = {
        "training.optimizer": (training.optimizer, ("sgd",)),
        "training.step": (training.step, ("auto", "eager")),
        "mixing": (settings.mixing.name, ("none",)),
        "branches": (settings.branches.name, ("none",)),
        "self_trainer": (settings.self_trainer.name, ("none",)),
    }
    for name, (value, fused) in checks.items():
        if value not in fused:
            return f"{name} is '{value}'; fused: {' or '.join(map(repr, fused))}"
    if settings.then:
        return "other trainings follow (then)"
    if settings.head.trunk_ending:
        return f"the head '{settings.head.name}' has branches of the trunk"
    if "projections" in settings.loss.needs():
        return f"the loss '{settings.loss.name}' trains a module of its own"
    return ""


def run_together(
    settings: Classify, given: Sequence[Given]
) -> list[Classified | NonFiniteLossError]:
    """Train M models at once, each as the stage's ``run`` trains it alone, up to rounding.

    Each has its own initial weights, order, augmentation and reports. A model whose loss is not
    finite gives its error.

    Raises:
        NotFusedError: They can't train together; the message says why, and nothing is lost but the
            time: what was saved, a training alone goes on from.
    """
    reason = refusal(settings) or _differing(given)
    if reason:
        raise NotFusedError(reason)
    try:
        return _train(settings, given)
    except torch.OutOfMemoryError as error:
        raise NotFusedError("the device has too little memory for all of them") from error


def _differing(given: Sequence[Given]) -> str:
    """Return in what the trainings differ so that their tensors have other shapes, if they do."""
    if len(given) < 2:
        return "there is only one"
    if any(g.context.world_size > 1 for g in given):
        return "several workers train each"
    facts: dict[str, list[object]] = {
        "device": [str(g.context.device) for g in given],
        "architecture": [(g.backbone.architecture, g.backbone.image_size) for g in given],
        "images": [(g.known_train.images.shape[1:], len(g.known_train.indices)) for g in given],
        "classes": [g.known_train.num_classes for g in given],
    }
    for name, values in facts.items():
        if any(value != values[0] for value in values):
            return f"they differ in their {name}"
    states = [g.backbone.state for g in given]
    if any(not torch.equal(own[x], states[0][x]) for own in states for x in ("mean", "std")):
        return "they differ in how images are normalised"
    return ""


class _Together:
    """The models side by side: ``trunks`` and ``heads``, and ``mean [M, D]`` of their features."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.trunks = Stack([model.trunk.network for model in models])
        self.heads = Stack([model.head for model in models])
        self.mean = torch.stack([model.mean for model in models])
        self.models = [
            model._replace(mean=mean) for model, mean in zip(models, self.mean, strict=True)
        ]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """In the order of one model's own."""
        return [*self.trunks.parameters.values(), *self.heads.parameters.values()]

    @property
    def running(self) -> list[Tensor]:
        """What moves with each batch besides them."""
        return [*self.trunks.buffers.values(), *self.heads.buffers.values(), self.mean]

    def __call__(self, images: Tensor, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Return features ``[M, B, D]`` and logits ``[M, B, C]`` of images ``[M, B, 3, H, W]``."""
        normalized = self.models[0].trunk.normalize(images.flatten(0, 1))
        maps = side_by_side(normalized.unflatten(0, images.shape[:2]), layout)
        features = self.trunks(maps)
        weight = next(self.models[0].head.parameters(), features)
        with torch.autocast(images.device.type, enabled=False):  # it does not hold under vmap
            return features, self.heads(features.to(weight.dtype))


def _build(
    settings: Classify, given: Sequence[Given]
) -> tuple[list[Model], list[str], list[StepBatches]]:
    """Return models, names of their architectures, and what each is shown."""
    models, architectures, batches = [], [], []
    for g in given:
        lesson = Lesson(g.known_train)
        model, architecture = build_model(settings, g.backbone, lesson, g.context)
        missing = lacking(model.trunk.network)
        if missing:
            raise NotFusedError(f"the trunk's layer {missing} has no fused form")
        if model.companion is not None:
            raise NotFusedError(f"the loss '{settings.loss.name}' trains a module of its own")
        models.append(model)
        architectures.append(architecture)
        batches.append(StepBatches(settings, lesson, model.views, g.context))
        if g.known_train.digest == given[0].known_train.digest:
            batches[-1].share_images(batches[0])
    return models, architectures, batches


def _train(settings: Classify, given: Sequence[Given]) -> list[Classified | NonFiniteLossError]:
    models, architectures, batches = _build(settings, given)
    dtype, layout = _precision(settings, models, batches, given)
    for model in models:
        model.trunk.to(memory_format=layout)
    _rehearse(models, given[0], layout, dtype)
    together, loss = _Together(models), settings.loss
    counts = [own.counts.to(g.context.device) for own, g in zip(batches, given, strict=True)]

    def batch_losses(batch: Batches, progress: float) -> Tensor:
        features, logits = together(batch.images, layout)
        together.mean.mul_(MEAN_MOMENTUM).add_(features.detach().float().mean(1))
        values = []
        for number, own in enumerate(counts):
            available = {"features": features[number], "logits": logits[number]}
            facts = {"labels": batch.labels[number], "class_counts": own, "progress": progress}
            values.append(loss.supplied({**available, **facts}))
        return torch.stack(values)

    def after_epoch(number: int, epoch: int) -> dict[str, float]:
        model, own = together.models[number], given[number]
        return {
            f"{STAGE}/samples_per_epoch": float(batches[number].length(epoch)),
            **validate(model, own.validation_known, own.context, STAGE),
        }

    members = [
        Member(model.modules(), {"mean": model.mean}, g.context)
        for model, g in zip(together.models, given, strict=True)
    ]
    found = fit_together(
        Fleet(members, together.parameters, together.running),
        epoch_batches=partial(_epoch, batches),
        steps_per_epoch=batches[0].steps,
        batch_losses=batch_losses,
        training=settings.training,
        stage=STAGE,
        dtype=dtype,
        after_epoch=after_epoch,
        phase=partial(step_phase, settings),
    )
    results: list[Classified | NonFiniteLossError] = []
    for number, reports in enumerate(found):
        if isinstance(reports, NonFiniteLossError):
            results.append(reports)
            continue
        model, own = together.models[number], given[number]
        model.trunk.eval()
        learned = Learned(model, architectures[number], iterations(reports, STAGE))
        results.append(classified(learned, settings, own.backbone, own.known_train))
    return results


def _precision(
    settings: Classify,
    models: Sequence[Model],
    batches: Sequence[StepBatches],
    given: Sequence[Given],
) -> Precision:
    """Return how the first model computes alone, which is how all do, and keep it for each."""
    first = choose_precision(
        models[0].trunk,
        settings.training,
        image_size=int(given[0].known_train.images.shape[1]),
        budget_images=batches[0].length(0) * settings.training.epochs,
        context=given[0].context,
        stage=STAGE,
    )
    names = [str(part).removeprefix("torch.") for part in first]
    for g in given[1:]:
        if decided(g.context, f"{STAGE}-precision", lambda: names) != names:
            raise NotFusedError("they were interrupted, and compute in different precisions")
    return first


@torch.no_grad()
def _rehearse(
    models: Sequence[Model], given: Given, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    """Pass images through copies of two models, so that what can't be fused is refused here.

    Raises:
        NotFusedError: It can't, or draws random numbers, as dropout does.
    """
    together = _Together([deepcopy(model) for model in models[:2]])
    size, device = given.known_train.images.shape[1], given.context.device
    images = torch.zeros(2, 2, 3, size, size, dtype=torch.uint8, device=device)
    try:
        with torch.autocast(device.type, torch.bfloat16, dtype is torch.bfloat16):
            together(images, layout)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of vmap; it names the call
        raise NotFusedError(str(error).strip().splitlines()[0]) from error


def _epoch(batches: Sequence[StepBatches], epoch: int) -> Iterator[Batches]:
    """Yield the batches of an epoch of all models."""
    if len({len(own.drawn(epoch)[0]) for own in batches}) > 1:
        raise NotFusedError(f"their epoch {epoch + 1} differs in length")
    for pairs in zip(*(own.epoch(epoch) for own in batches), strict=True):
        first = [batch for batch, _ in pairs]
        labels = torch.stack([batch.labels for batch in first if batch.labels is not None])
        yield Batches(torch.stack([batch.images for batch in first]), labels)
