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
from trainables.distributed import gathered, own_epoch, share_of_batch, synchronise_batchnorm
from trainables.errors import ConfigError
from trainables.experiment import Pretrain
from trainables.loader import Batch, Loader
from trainables.loop import Group, Kept, choose_precision, fit, num_steps

PROVIDES: dict[str, frozenset[str]] = {
    "method": frozenset({"first_projections", "second_projections", "logits", "targets"}),
    "augmentation": frozenset({"images", "generator"}),
}
OUTPUTS = {1: ("logits",), 2: ("first_projections", "second_projections")}  # by views


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
    loader = Loader(view, batch_size=share, augmentation=None, device=context.device)
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
    draws = {"epoch": torch.Generator()}

    def epoch_batches(epoch: int) -> Iterator[Batch]:
        order = context.generator("pretrain", "order", epoch)
        draws["epoch"] = context.own_generator("pretrain", "views", epoch)
        return own_epoch(loader, torch.randperm(size, generator=order), order, context)

    def batch_loss(batch: Batch, progress: float) -> Tensor:
        draw = draws["epoch"]
        views = [
            settings.augmentation(images=batch.images, generator=draw) for _ in range(method.views)
        ]
        asked = {}
        if method.views == 1:
            views[0], asked["targets"] = method.pretext(images=views[0], generator=draw)
        outputs = projector(trunk(torch.cat(views).contiguous(memory_format=layout)))
        parts = outputs.split(len(batch.images))
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
        kept=Kept({"trunk": trunk, "projector": projector}),
    )
    trunk.eval()
