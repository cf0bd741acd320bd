"""A batch that is mixed on its way: features from the trunk, and the loss for both labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainables.methods.losses import Loss
from trainables.models.backbone import Trunk
from trainables.transforms.mixing import Mix, mixed_values


def mixed_features(trunk: Trunk, images: Tensor, mix: Mix | None) -> Tensor:
    """Return the features ``[B, D]`` of a batch that is mixed where ``mix`` says.

    Args:
        trunk: The network; a hidden layer is one of `Trunk.hidden_layers`, but not the last.
        images: ``[B, 3, H, W]``.
        mix: ``None`` mixes nothing.
    """
    if mix is None:
        return trunk(images)  # type: ignore[no-any-return]
    if mix.pasted is not None:
        images = mix.pasted
        if mix.share == 1.0:
            return trunk(images)  # type: ignore[no-any-return]
    if mix.place == "features":
        return mixed_values(trunk(images), mix)
    layers = trunk.hidden_layers()[:-1] if mix.place == "hidden" else []
    chosen = int(mix.depth * (1 + len(layers)))
    if chosen == 0:
        return trunk(mixed_values(images, mix))  # type: ignore[no-any-return]
    hook = layers[chosen - 1].register_forward_hook(lambda _, __, maps: mixed_values(maps, mix))
    try:
        return trunk.forward(images)  # a compiled trunk, which a call may be, ignores the hook
    finally:
        hook.remove()


def mixed_loss(loss: Loss, available: Mapping[str, Any], mix: Mix | None) -> Tensor:
    """Return ``label_share * L(labels) + (1 - label_share) * L(partner_labels)``.

    Args:
        loss: Any loss.
        available: What it may ask for; ``labels`` are used where nothing is mixed.
        mix: ``None`` gives the plain loss.
    """
    if mix is None or (mix.pasted is not None and mix.share == 1.0):
        plain: Tensor = loss.call_with(available)
        return plain
    own: Tensor = loss.call_with({**available, "labels": mix.labels})
    other: Tensor = loss.call_with({**available, "labels": mix.partner_labels})
    return mix.label_share * own + (1 - mix.label_share) * other
