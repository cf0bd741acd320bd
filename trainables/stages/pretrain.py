"""Stage 1: a trunk, from random weights, a checkpoint, or learned without labels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import Backbone, LabelledView
from trainables.backbone import Trunk, build_trunk, to_artifact
from trainables.context import Context, ambient_rng
from trainables.distributed import gathered, share_of_batch, synchronise_batchnorm
from trainables.errors import ConfigError
from trainables.experiment import Pretrain
from trainables.loader import Loader
from trainables.loop import Group, Kept, choose_precision, fit, num_steps
from trainables.methods.pretrainers import Pretrainer
from trainables.momentum_keys import MomentumKeys

PROVIDES: dict[str, frozenset[str]] = {
    "method": frozenset(
        {"first_projections", "second_projections", "logits", "targets"}
        | {"queries", "keys", "queue"}
    ),
    "augmentation": frozenset({"images", "generator"}),
}
OUTPUTS = {1: ("logits",), 2: ("first_projections", "second_projections")}  # by views


class _Asked(NamedTuple):
    """Images of all views of a batch, and what is asked about them if anything is.

    ``order`` is a permutation of the images of all workers, alike on all of them, for their keys.
    """

    images: Tensor
    targets: Tensor | None = None
    order: Tensor | None = None


class Pretrained(NamedTuple):
    """What the stage gives."""

    backbone: Backbone


def run(settings: Pretrain, *, known_train: LabelledView, context: Context) -> Pretrained:
    """Build the trunk and, if the method trains, learn it from the training images alone.

    Labels of ``known_train`` are not read.

    Raises:
        ConfigError: A checkpoint is missing or does not fit the trunk.
    """
    image_size = int(known_train.images.shape[1])
    method = settings.method
    trunk = build_trunk(
        settings.backbone,
        image_size,
        generator=context.generator("pretrain", "initial"),
        pretrained=bool(getattr(method, "timm_pretrained", False)),
    )
    checkpoint = str(getattr(method, "checkpoint", ""))
    if checkpoint:
        _load(trunk, Path(checkpoint))
    trunk.to(context.device)
    if method.trains:
        _train(trunk, settings, known_train, context)
    source = str(getattr(method, "pretrained_on", ""))
    return Pretrained(to_artifact(trunk, settings.backbone, image_size, source))


def _load(trunk: Trunk, path: Path) -> None:
    """Load a checkpoint's weights into the trunk; a head's weights in it are ignored."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"pretrain.method.checkpoint: no such file: {path}")
    state = load_file(path)
    missing = trunk.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise ConfigError(
            f"pretrain.method.checkpoint: {path} lacks {len(missing)} of the trunk's "
            f"{len(trunk.state_dict())} tensors, first {missing[0]}"
        )


def _train(trunk: Trunk, settings: Pretrain, view: LabelledView, context: Context) -> None:
    """Train trunk and projector on random views of each image.

    Two views are compared, by several workers with the images of the whole batch, not each its own
    share, or with a queue of earlier ones; with one view the method asks a question about it.
    """
    training, method = settings.training, settings.method
    with ambient_rng(context.generator("pretrain", "projector")):
        projector = method.build(trunk.num_features).to(context.device)
    size = len(view.indices)
    share = share_of_batch(training.batch_size, context, "pretrain")
    loader = Loader(
        view,
        batch_size=share,
        augmentation=settings.augmentation,
        views=method.views,
        device=context.device,
    )
    dtype, layout = choose_precision(
        trunk,
        training,
        image_size=int(view.images.shape[1]),
        budget_images=method.views * size * training.epochs,
        context=context,
        stage="pretrain",
    )
    if training.sync_batchnorm:
        synchronise_batchnorm(trunk, context)
    trunk.to(memory_format=layout).train()
    encoder = torch.nn.Sequential(trunk, projector)
    keys = _momentum_keys(method, encoder, size, context)

    def batch_loss(batch: _Asked, progress: float) -> Tensor:
        images = batch.images.contiguous(memory_format=layout)
        if keys is not None and batch.order is not None:
            return _compared_with_keys(method, encoder, keys, images, batch.order, context)
        asked = {} if batch.targets is None else {"targets": batch.targets}
        outputs = encoder(images)
        parts = outputs.chunk(method.views)
        if method.views == 2:
            parts = [gathered(part, context) for part in parts]
        loss: Tensor = method(**dict(zip(OUTPUTS[method.views], parts, strict=True)), **asked)
        return loss

    fit(
        [Group([*trunk.parameters(), *projector.parameters()])],
        epoch_batches=partial(_epoch, loader, method, context),
        steps_per_epoch=num_steps(size, training.batch_size),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="pretrain",
        dtype=dtype,
        kept=_kept(trunk, projector, keys),
    )
    trunk.eval()


def _epoch(loader: Loader, method: Pretrainer, context: Context, epoch: int) -> Iterator[_Asked]:
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
            yield _Asked(*method.pretext(images=batch.images, generator=draws))
        elif "keys" not in method.needs():
            yield _Asked(batch.images)
        else:
            rows = len(batch.images) // 2 * world_size
            yield _Asked(batch.images, order=torch.randperm(rows, generator=shuffle))


def _kept(trunk: Trunk, projector: torch.nn.Module, keys: MomentumKeys | None) -> Kept:
    """Return what the training changes; a step that shuffles and remembers is not recorded."""
    modules: dict[str, torch.nn.Module] = {"trunk": trunk, "projector": projector}
    if keys is None:
        return Kept(modules, phase=lambda progress: ())
    return Kept({**modules, "keys": keys})


def _momentum_keys(
    method: Any, encoder: torch.nn.Module, num_images: int, context: Context
) -> MomentumKeys | None:
    """Return what gives a method's keys, if it wants any; see `MoCo` for the queue's length."""
    if "keys" not in method.needs():
        return None
    places = max(1, min(method.queue_size, num_images // 2))
    draws = context.generator("pretrain", "queue")
    queue = torch.randn(places, method.output_dimension, generator=draws)
    return MomentumKeys(encoder, queue.to(context.device), momentum=method.momentum)


def _compared_with_keys(
    method: Pretrainer,
    encoder: torch.nn.Module,
    keys: MomentumKeys,
    images: Tensor,
    order: Tensor,
    context: Context,
) -> Tensor:
    """Return the loss of a batch whose second views are keys; moves them and their queue."""
    first, second = images.chunk(2)
    keys.follow(encoder)
    found, queue = keys(second, order=order, context=context)
    loss: Tensor = method(queries=encoder(first), keys=found, queue=queue)
    return loss
