"""Networks of timm without their last stages, whose features are those of an earlier layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from trainables.errors import ConfigError
from trainables.weights.sources import architecture_of, architecture_text

KEY = "layer"  # in the arguments of an architecture


def with_layer(architecture: str, layer: int) -> str:
    """Return the text of an architecture without its last stages.

    Example:
        >>> with_layer("resnet18", 1), with_layer("resnet18", 0)
        ('resnet18 {"layer": 1}', 'resnet18')
    """
    name, arguments = architecture_of(architecture)
    return architecture_text(name, arguments | ({KEY: layer} if layer else {}))


def leave_out(network: nn.Module, layer: int, owner: str) -> None:
    """Take the last stages out of a network of timm without its classifier, in place.

    The other weights and the way of pooling stay. Of a transformer, stages are its blocks, and the
    final norm stays; a convolution after the last stage goes with it.

    Args:
        network: The network.
        layer: Number of stages that go; 0 leaves it as it is.
        owner: Name of the network, for messages.

    Raises:
        ConfigError: The network has fewer stages, or timm can't shorten it.
    """
    if not layer:
        return
    stages = len(getattr(network, "feature_info", None) or ())
    shorten: Any = getattr(network, "prune_intermediate_layers", None)
    pooling: Any = getattr(network, "global_pool", None)
    if shorten is None or pooling is None or getattr(network, "attn_pool", None) is not None:
        raise ConfigError(
            f"pretrain.layer: must be 0, '{owner}' can't be shortened; received {layer}"
        )
    if layer >= stages:
        raise ConfigError(
            f"pretrain.layer: '{owner}' has {stages} stages; must be below that; received {layer}"
        )
    shorten([-1 - layer], prune_norm=False, prune_head=False)
    network.global_pool = pooling  # timm takes it out of a network that it shortens
