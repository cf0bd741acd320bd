"""Class activation maps: where in an image a classifier sees its class, and moving that part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.backbone import Trunk
from trainables.errors import ConfigError


@torch.no_grad()
def class_activation(trunk: Trunk, head: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the activation map of each image's own class, ``[B, H, W]`` float32.

    ``sum_d w_yd f_d(h, w)`` with f the trunk's last maps, before they are pooled, and w the rows
    of a linear head; enlarged to the image. Evaluation mode: nothing is learned from this look.

    Args:
        trunk: The network; its mode is put back.
        head: Linear.
        images: ``[B, 3, H, W]``.
        labels: ``[B]`` int64.

    Raises:
        ConfigError: The features are not pooled maps, or the head is not linear.
    """
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            "an activation map needs the head 'linear', whose weights tell what a map says of a "
            f"class; received {type(head).__name__}"
        )
    was_training = trunk.training
    maps = list(trunk.eval().forward_maps(images).values())[-1]
    trunk.train(was_training)
    if maps.ndim != 4 or maps.shape[1] != head.in_features:
        raise ConfigError(
            f"an activation map needs a trunk that pools its last maps into {head.in_features} "
            f"features; received maps of shape {list(maps.shape)}"
        )
    seen = torch.einsum("bdhw,bd->bhw", maps.float(), head.weight[labels].float())
    return nn.functional.interpolate(
        seen[:, None], images.shape[2:], mode="bilinear", align_corners=False
    )[:, 0]
