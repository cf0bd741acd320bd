"""Stage `pretrain`: a trunk with random, pretrained or self-supervised weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Backbone, LabelledView
from trainables.context import Context, ambient_rng
from trainables.data.loader import Loader
from trainables.errors import ConfigError
from trainables.experiment import Pretrain
from trainables.methods.pretrainers import Pretrainer
from trainables.models.backbone import Trunk, build_trunk, to_artifact
from trainables.models.networks import OWN
from trainables.models.precision import compute_format
from trainables.training.distributed import gathered, share_of_batch, synchronise_batchnorm
from trainables.training.loop import ParamGroup, TrainingState, fit, num_steps
from trainables.training.momentum_encoder import MomentumKeys
from trainables.weights.depth import with_layer
from trainables.weights.pooling import with_pooling
from trainables.weights.pretrained import Weights, find_weights
from trainables.weights.provenance import Origin

PROVIDES: dict[str, frozenset[str]] = {
    "method": frozenset(
        {"first_projections", "second_projections", "logits", "targets"}
        | {"queries", "keys", "queue"}
    ),
    "augmentation": frozenset({"images", "generator"}),
}
OUTPUTS = {1: ("logits",), 2: ("first_projections", "second_projections")}  # by views


class _PretextBatch(NamedTuple):
    """Images of all views of a batch, and the targets of a pretext task.

    ``order`` is a permutation of the images of all workers, the same on all workers, for MoCo's
    shuffled keys.
    """

    images: Tensor
    targets: Tensor | None = None
    order: Tensor | None = None


class Pretrained(NamedTuple):
    """Artifact of the stage."""

    backbone: Backbone


def run(settings: Pretrain, *, known_train: LabelledView, context: Context) -> Pretrained:
    """Build the trunk and, if the method trains, train it on the training images.

    The labels of ``known_train`` are not used.

    Raises:
        ConfigError: Pretrained weights are missing or do not fit the trunk.
    """
    image_size = int(known_train.images.shape[1])
    weights = find_weights(settings.backbone, settings.method, image_size)
    architecture = trunk_architecture(settings, weights)
    origin = Origin() if weights is None else weights.origin
    trunk = build_trunk(
        architecture,
        image_size,
        generator=context.generator("pretrain", "initial"),
        weights=weights,
    ).to(context.device)
    if settings.method.trains:
        _train(trunk, settings, known_train, context)
    backbone = to_artifact(trunk, architecture, image_size)._replace(
        pretrained_on=origin.text,
        pretraining_images=origin.labelled,
        pretraining_labels=origin.labels,
        training_images=torch.empty(0, dtype=torch.int64),
    )
    return Pretrained(backbone)


def trunk_architecture(settings: Pretrain, weights: Weights | None) -> str:
    """Return the text that rebuilds the trunk, with the layer and pooling of the recipe.

    Raises:
        ConfigError: A network of this project can't be shortened.
    """
    if settings.layer and settings.backbone.partition("+")[0] in OWN:
        raise ConfigError(
            f"pretrain.layer: must be 0, '{settings.backbone}' is no network of timm; received "
            f"{settings.layer}"
        )
    architecture = settings.backbone if weights is None else weights.architecture
    return with_pooling(with_layer(architecture, settings.layer), settings.pooling)


def _train(trunk: Trunk, settings: Pretrain, view: LabelledView, context: Context) -> None:
    """Train trunk and projector on random views of each image.

    Methods with two views compare the projections of all workers' images, or queries with keys and
    a queue. Methods with one view have a pretext task.
    """
    training, method = settings.training, settings.method
    with ambient_rng(context.generator("pretrain", "projector")):
        projector = method.build(trunk.num_features).to(context.device)
    size = len(view.indices)
    local_batch_size = share_of_batch(training.batch_size, context, "pretrain")
    loader = Loader(
        view,
        batch_size=local_batch_size,
        augmentation=settings.augmentation,
        views=method.views,
        device=context.device,
    )
    dtype, layout = compute_format(training.precision, training.layout)
    if training.sync_batchnorm:
        synchronise_batchnorm(trunk, context)
    trunk.to(memory_format=layout).train()
    encoder = torch.nn.Sequential(trunk, projector)
    keys = _momentum_keys(method, encoder, size, context)

    def batch_loss(batch: _PretextBatch, progress: float) -> Tensor:
        images = batch.images.contiguous(memory_format=layout)
        if keys is not None and batch.order is not None:
            return _contrast_with_keys(method, encoder, keys, images, batch.order, context)
        pretext = {} if batch.targets is None else {"targets": batch.targets}
        outputs = encoder(images)
        parts = outputs.chunk(method.views)
        if method.views == 2:
            parts = [gathered(part, context) for part in parts]
        loss: Tensor = method(**dict(zip(OUTPUTS[method.views], parts, strict=True)), **pretext)
        return loss

    fit(
        [ParamGroup([*trunk.parameters(), *projector.parameters()])],
        epoch_batches=partial(_epoch, loader, method, context),
        steps_per_epoch=num_steps(size, training.batch_size),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="pretrain",
        dtype=dtype,
        state=_training_state(trunk, projector, keys),
    )
    trunk.eval()


def _epoch(
    loader: Loader, method: Pretrainer, context: Context, epoch: int
) -> Iterator[_PretextBatch]:
    """Yield this worker's batches of an epoch."""
    size = len(loader)
    positions = torch.randperm(size, generator=context.generator("pretrain", "order", epoch))
    draws = context.own_generator("pretrain", "views", epoch, device=str(context.device))
    shuffle = context.generator("pretrain", "shuffle", epoch)
    rank, world_size = context.rank, context.world_size
    for batch in loader.epoch(
        positions=positions, generator=draws, rank=rank, world_size=world_size
    ):
        if method.views == 1:
            yield _PretextBatch(*method.pretext(images=batch.images, generator=draws))
        elif "keys" not in method.required_inputs():
            yield _PretextBatch(batch.images)
        else:
            rows = len(batch.images) // 2 * world_size
            yield _PretextBatch(batch.images, order=torch.randperm(rows, generator=shuffle))


def _training_state(
    trunk: Trunk, projector: torch.nn.Module, keys: MomentumKeys | None
) -> TrainingState:
    """Return the modules that training changes."""
    modules: dict[str, torch.nn.Module] = {"trunk": trunk, "projector": projector}
    return TrainingState(modules if keys is None else {**modules, "keys": keys}, trunk=trunk)


def _momentum_keys(
    method: Any, encoder: torch.nn.Module, num_images: int, context: Context
) -> MomentumKeys | None:
    """Return the momentum encoder of a method with keys, otherwise ``None``; see `MoCo`."""
    if "keys" not in method.required_inputs():
        return None
    places = max(1, min(method.queue_size, num_images // 2))
    draws = context.generator("pretrain", "queue")
    queue = torch.randn(places, method.output_dimension, generator=draws)
    return MomentumKeys(encoder, queue.to(context.device), momentum=method.momentum)


def _contrast_with_keys(
    method: Pretrainer,
    encoder: torch.nn.Module,
    keys: MomentumKeys,
    images: Tensor,
    order: Tensor,
    context: Context,
) -> Tensor:
    """Update the momentum encoder, and return the loss of queries with keys and queue."""
    first, second = images.chunk(2)
    keys.follow(encoder)
    key_batch, queue = keys(second, order=order, context=context)
    loss: Tensor = method(queries=encoder(first), keys=key_batch, queue=queue)
    return loss
