"""Stage 1: a trunk, from random weights, a checkpoint, or learned without labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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

PROVIDES: dict[str, frozenset[str]] = {
    "method": frozenset({"first_projections", "second_projections", "logits", "targets"}),
    "augmentation": frozenset({"images", "generator"}),
}
OUTPUTS = {1: ("logits",), 2: ("first_projections", "second_projections")}  # by views


class _Asked(NamedTuple):
    """Images of all views of a batch, and what is asked about them if anything is."""

    images: Tensor
    targets: Tensor | None


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
    share; with one view the method asks a question about it.
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

    def epoch_batches(epoch: int) -> Iterator[_Asked]:
        positions = torch.randperm(size, generator=context.generator("pretrain", "order", epoch))
        names = ("pretrain", "views", epoch)
        draws = context.own_generator(*names, device=str(context.device))
        rank, world_size = context.rank, context.world_size
        for batch in loader.epoch(
            positions=positions, generator=draws, rank=rank, world_size=world_size
        ):
            if method.views == 1:
                yield _Asked(*method.pretext(images=batch.images, generator=draws))
            else:
                yield _Asked(batch.images, None)

    def batch_loss(batch: _Asked, progress: float) -> Tensor:
        asked = {} if batch.targets is None else {"targets": batch.targets}
        outputs = projector(trunk(batch.images.contiguous(memory_format=layout)))
        parts = outputs.chunk(method.views)
        if method.views == 2:
            parts = [gathered(part, context) for part in parts]
        loss: Tensor = method(**dict(zip(OUTPUTS[method.views], parts, strict=True)), **asked)
        return loss

    fit(
        [Group([*trunk.parameters(), *projector.parameters()])],
        epoch_batches=epoch_batches,
        steps_per_epoch=num_steps(size, training.batch_size),
        batch_loss=batch_loss,
        training=training,
        context=context,
        stage="pretrain",
        dtype=dtype,
        kept=Kept({"trunk": trunk, "projector": projector}, phase=lambda progress: ()),
    )
    trunk.eval()
