"""Networks of timm without their classifier, for images of any size, with or without weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.errors import ConfigError
from trainables.weights import depth
from trainables.weights.pooling import KEY, set_pooling
from trainables.weights.pretrained import Weights, load_tensors
from trainables.weights.sources import architecture_of

SMALL_IMAGE = 64  # up to this size, a 7x7 stride-2 stem leaves too few pixels


def build_timm(
    architecture: str,
    size: int,
    generator: torch.Generator,
    weights: Weights | None,
    drop_path: float = 0.0,
) -> tuple[nn.Module, int]:
    """Build a timm network without its classifier.

    Args:
        architecture: See `trainables.weights.sources.architecture_text`.
        size: Height and width of the images.
        generator: Draws the weights.
        weights: Pretrained weights.
        drop_path: Drop-path rate of the last block in training (stochastic depth).

    Returns:
        The network and the width of its features.

    Raises:
        ConfigError: The network does not take such images, or the weights do not fit.
    """
    name, arguments = architecture_of(architecture)
    pooling = arguments.pop(KEY, "default")
    layer = arguments.pop(depth.KEY, 0)
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    # timm draws from the global generator: set its state to the generator's, then restore both
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator.get_state())
        try:
            short = _stored_layer(weights, layer)
            network = _timm_network(name, arguments, size, weights, short)
            depth.leave_out(network, layer - short, name)
            set_pooling(network, pooling, name)
            with torch.no_grad():
                num_features = network.eval()(torch.zeros(1, 3, size, size)).shape[1]
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            if isinstance(error, ConfigError):  # weights that do not fit
                raise
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"backbone '{name}' cannot be built for images of {size}x{size} pixels: {reason}; "
                "set another pretrain.backbone or data.image_size"
            ) from None
        generator.set_state(torch.random.get_rng_state())
    network.train()
    return network, num_features


def no_drop_path(architecture: str, rate: float) -> str:
    """Return the message on a network without stochastic depth."""
    return (
        f"drop_path: '{architecture}' has no stochastic depth; must be 0, or choose another "
        f"pretrain.backbone of timm; received {rate:g}"
    )


def _stored_layer(weights: Weights | None, layer: int) -> int:
    """Return how many of the last stages a stored trunk lacks whose weights are loaded.

    Raises:
        ConfigError: Another number is asked for.
    """
    if weights is None or weights.tensors is None:
        return 0
    stored: int = architecture_of(weights.architecture)[1].get(depth.KEY, 0)
    if stored not in (0, layer):
        raise ConfigError(
            f"pretrain.layer: {weights.place} is a trunk without its last {stored} stages; must be "
            f"{stored}; received {layer}"
        )
    return stored


def _timm_network(
    name: str, arguments: dict[str, Any], size: int, weights: Weights | None, short: int
) -> nn.Module:
    """Create a timm network without its classifier, for images of ``size``, with its weights.

    Where these lack the last ``short`` stages, so does the network.
    """
    import timm

    timms = weights is not None and weights.tensors is None
    options: dict[str, Any] = {"num_classes": 0, "pretrained": timms, **arguments}
    try:
        network: nn.Module = timm.create_model(name, img_size=size, **options)
    except TypeError:  # convolutional networks take images of any size
        try:
            network = timm.create_model(name, **options)
        except TypeError:
            rate = float(arguments.get("drop_path_rate", 0.0))
            if not rate:
                raise
            raise ConfigError(no_drop_path(name, rate)) from None
    depth.leave_out(network, short, name)
    if weights is not None and not timms:
        try:
            load_tensors(network, weights)
        except ConfigError:  # a network with a small stem may have been stored
            if size > SMALL_IMAGE or not _shrink_stem(network):
                raise
            load_tensors(network, weights)
            return network
    if size <= SMALL_IMAGE:
        _shrink_stem(network)
    return network


def _shrink_stem(network: nn.Module) -> bool:
    """Replace a 7x7 stride-2 stem and its max-pool by a 3x3 stride-1 stem, if there is one.

    The new kernels are the centers of the 7x7 kernels.
    """
    stem, pool = getattr(network, "conv1", None), getattr(network, "maxpool", None)
    if not isinstance(stem, nn.Conv2d) or stem.kernel_size != (7, 7) or pool is None:
        return False
    small = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)
    with torch.no_grad():
        small.weight.copy_(stem.weight[:, :, 2:5, 2:5] * (7 / 3))  # keep the outputs' scale
    network.conv1, network.maxpool = small, nn.Identity()
    return True


def timm_maps(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return timm's intermediate maps, or only the last map if the network offers no others."""
    intermediates = getattr(network, "forward_intermediates", None)
    if intermediates is None:
        last: Tensor = network.forward_features(images)  # type: ignore[operator]
        return {"last": last}
    maps = intermediates(images, intermediates_only=True)
    return {f"stage{number}": map_ for number, map_ in enumerate(maps, start=1)}
