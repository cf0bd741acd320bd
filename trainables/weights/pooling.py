"""How a network of timm makes one feature vector of its last maps or tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainables.errors import ConfigError
from trainables.weights.sources import architecture_of, architecture_text

TIMM_NAMES = {"average": "avg", "max": "max", "token": "token"}
POOLINGS = ("average", "max", "gem", "token")
KEY = "pooling"  # in the arguments of an architecture
POWER = 3.0  # of the generalized mean


class GeneralizedMean(nn.Module):
    """Generalized-mean pooling (GeM): ``(mean of x^p)^(1/p)``, with x of at least 1e-6.

    p is 3: between the average (1) and the maximum. It is not trained, so that a network has the
    same weights under every pooling.

    Args:
        dimensions: Of height and width.
        keep: Keep them, with length 1.

    Shapes:
        maps: ``[B, C, H, W]`` or ``[B, H, W, C]``. Returns ``[B, C]``, or four dimensions.

    Source:
        Radenović, Tolias, Chum 2018, "Fine-tuning CNN Image Retrieval with No Human Annotation",
        arXiv 1711.02512, equation 3.

    Example:
        >>> import torch
        >>> maps = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
        >>> round(GeneralizedMean()(maps).item() ** 3, 4)
        4.5
    """

    def __init__(self, dimensions: tuple[int, int] = (2, 3), *, keep: bool = False) -> None:
        super().__init__()
        self.dimensions, self.keep = dimensions, keep

    def forward(self, maps: Tensor) -> Tensor:
        """Return features ``[B, C]``."""
        powers = maps.clamp(min=1e-6).pow(POWER)
        return powers.mean(dim=self.dimensions, keepdim=self.keep).pow(1 / POWER)


def with_pooling(architecture: str, pooling: str) -> str:
    """Return the text of an architecture with another pooling than its own.

    Example:
        >>> with_pooling("resnet18", "max"), with_pooling("resnet18", "default")
        ('resnet18 {"pooling": "max"}', 'resnet18')
    """
    name, arguments = architecture_of(architecture)
    return architecture_text(name, arguments | ({} if pooling == "default" else {KEY: pooling}))


def set_pooling(network: nn.Module, pooling: str, owner: str) -> None:
    """Let a network of timm without its classifier pool in another way, in place.

    Weights and their names stay, so pretrained ones fit.

    Args:
        network: The network.
        pooling: ``default``, ``average``, ``max``, ``gem`` or ``token``.
        owner: Name of the network, for messages.

    Raises:
        ConfigError: The network has no such pooling.
    """
    from timm.layers import SelectAdaptivePool2d

    layers = [n for n, part in network.named_modules() if isinstance(part, SelectAdaptivePool2d)]
    tokens = not layers and isinstance(getattr(network, "global_pool", None), str)
    if pooling == "default":
        return
    if tokens and pooling in TIMM_NAMES:
        _pool_tokens(network, TIMM_NAMES[pooling], owner)
    elif len(layers) == 1 and pooling != "token":
        _pool_maps(network, layers[0], pooling)
    else:
        allowed = "average, max, token" if tokens else "average, max, gem" if layers else ""
        raise _no_pooling(owner, pooling, allowed)


def _pool_tokens(network: Any, pooling: str, owner: str) -> None:
    """Pool the last tokens of a transformer."""
    try:
        network.reset_classifier(0, global_pool=pooling)
    except AssertionError:
        raise _no_pooling(owner, pooling, "average, max; it has no class token") from None


def _pool_maps(network: nn.Module, name: str, pooling: str) -> None:
    """Replace the layer that pools the last maps of a convolutional network."""
    from timm.layers import SelectAdaptivePool2d

    old: Any = network.get_submodule(name)
    dimensions = getattr(old.pool, "dim", (2, 3))
    flat = not isinstance(old.flatten, nn.Identity) or getattr(old.pool, "flatten", False)
    new: nn.Module
    if pooling == "gem":
        new = GeneralizedMean(dimensions, keep=not flat)
    else:
        order = "NHWC" if dimensions == (1, 2) else "NCHW"
        new = SelectAdaptivePool2d(pool_type=TIMM_NAMES[pooling], flatten=flat, input_fmt=order)
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, new)


def _no_pooling(owner: str, pooling: str, allowed: str) -> ConfigError:
    """Return the error on a pooling that a network does not have."""
    return ConfigError(
        f"pretrain.pooling: '{owner}' has no pooling '{pooling}'; allowed: default"
        f"{', ' if allowed else ''}{allowed}"
    )
