"""Class activation maps of a trunk with a linear head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.errors import ConfigError
from trainables.models.backbone import Trunk


@torch.no_grad()
def class_activation(trunk: Trunk, head: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the activation map of each image's labeled class, ``[B, H, W]`` float32.

    The map is ``sum_d w_yd f_d(h, w)``, resized to the image, where f are the trunk's last feature
    maps before pooling and w the rows of a linear head. The trunk runs in evaluation mode, so its
    batch statistics do not change.

    Args:
        trunk: The network; its mode is restored afterwards.
        head: Linear head.
        images: ``[B, 3, H, W]``.
        labels: ``[B]`` int64.

    Raises:
        ConfigError: The features are not pooled maps, or the head is not linear.
    """
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            "an activation map needs the head 'linear', whose weights weigh the feature maps; "
            f"received {type(head).__name__}"
        )
    was_training = trunk.training
    maps = list(trunk.eval().forward_maps(images).values())[-1]
    trunk.train(was_training)
    if maps.ndim != 4 or maps.shape[1] != head.in_features:
        raise ConfigError(
            f"an activation map needs a trunk whose last {head.in_features} maps are pooled into "
            f"its features; received maps of shape {list(maps.shape)}"
        )
    seen = torch.einsum("bdhw,bd->bhw", maps.float(), head.weight[labels].float())
    return nn.functional.interpolate(
        seen[:, None], images.shape[2:], mode="bilinear", align_corners=False
    )[:, 0]
