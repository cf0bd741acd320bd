"""Shifted batch norm (MiSLAS): re-estimate running statistics under class-balanced sampling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.artifacts import LabelledView
from trainables.errors import ConfigError
from trainables.features.head_training import class_balanced_draws
from trainables.methods.augmentations import Augmentation
from trainables.models.backbone import Trunk

MOMENTUM = 0.1  # momentum of the running statistics, as in the reference code of MiSLAS


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

    The statistics change in place; weights do not change, and modules of other kinds run in
    evaluation mode. After 100 steps less than 3e-5 of the old statistics is left. A view without
    images changes nothing.

    As no weight changes, the final statistics depend only on the batches; with the batches of the
    reference code they equal those of its model after its second stage. The head's training data
    differ: the reference code trains the head on features normalized by the statistics of each
    batch (training mode), this project on features normalized by the final statistics, as in
    evaluation.

    Args:
        trunk: Trunk whose batch norm is shifted.
        view: Images and labels; classes that occur are drawn with equal probability.
        steps: Number of batches.
        batch_size: Images per batch.
        generator: Generator of the draws and of the augmentation.
        augmentation: Augmentation of each batch; by default none, as when features are extracted.
        device: Device of the trunk.

    Raises:
        ConfigError: The trunk has no batch norm with running statistics.

    Source:
        Zhong et al. 2021, "Improving Calibration for Long-Tailed Recognition" (MiSLAS),
        arXiv:2104.00466, section 3.4; reference code dvlab-research/MiSLAS, which updates the
        statistics on augmented images while it trains the head.
    """
    norms = [
        module
        for module in trunk.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        raise ConfigError(
            "extract.batchnorm: 'shifted' needs a trunk with batch normalization, but "
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
