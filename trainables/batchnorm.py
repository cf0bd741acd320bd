"""Batch norm that adapts to other class frequencies while every weight stays (shifted BN)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.artifacts import LabelledView
from trainables.backbone import Trunk
from trainables.errors import ConfigError
from trainables.head_training import class_balanced_draws
from trainables.methods.augmentations import Augmentation

MOMENTUM = 0.1  # of the running statistics, as in the reference code of MiSLAS


def shift_batchnorm(
    trunk: Trunk,
    view: LabelledView,
    *,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    augmentation: Augmentation | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Re-estimate the running statistics of a trunk's batch norm under class-balanced draws.

    In place; weights, and modules of any other kind, stay as in evaluation mode. After 100 steps
    less than 3e-5 of the old statistics is left. A view without images changes nothing.

    As no weight moves, the statistics at the end depend on the batches alone: with the batches of
    the reference code they are those that its model has after its second stage. What differs is
    what the head is trained on: there features under the statistics of each batch, in training
    mode, here features under the statistics at the end, those that it meets from then on.

    Args:
        trunk: Its batch norm is shifted.
        view: Images and labels; every class that occurs is drawn alike.
        steps: Batches.
        batch_size: Images per batch.
        generator: Of the draws, and of the augmentation.
        augmentation: Of each batch; by default images are taken as they are, as they are when
            features are extracted.
        device: Where the trunk runs.

    Raises:
        ConfigError: The trunk has no batch norm with running statistics.

    Source:
        Zhong et al. 2021, "Improving Calibration for Long-Tailed Recognition" (MiSLAS),
        arXiv:2104.00466, section 3.4; reference code dvlab-research/MiSLAS, where the statistics
        move while the head trains, on augmented images.
    """
    norms = [
        module
        for module in trunk.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        raise ConfigError(
            "extract.batchnorm: 'shifted' needs a trunk with batch normalisation, and "
            f"{type(trunk.network).__name__} has none; allowed: frozen"
        )
    if not len(view.labels):
        return
    momenta = [norm.momentum for norm in norms]
    draws = class_balanced_draws(
        torch.from_numpy(view.labels), num_draws=steps * batch_size, generator=generator
    )
    trunk.eval().to(device)
    for norm in norms:
        norm.train().momentum = MOMENTUM
    with torch.no_grad():
        for positions in draws.split(batch_size):
            images = _images(view, positions).to(device)
            if augmentation is not None:
                images = augmentation(images=images, generator=generator)
            trunk(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def _images(view: LabelledView, positions: Tensor) -> Tensor:
    """Return images of a view, uint8 ``[B, 3, H, W]``."""
    return torch.from_numpy(view.images[view.indices[positions.numpy()]]).permute(0, 3, 1, 2)
