"""Pretrained weights of a trunk, from wherever a recipe says, or why they can't be had."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from trainables.artifacts import Backbone
from trainables.errors import ConfigError
from trainables.methods.pretrainers import Pretrainer
from trainables.weights.hub import SAFE_FILE, require_on_hub, require_url
from trainables.weights.key_names import named_as
from trainables.weights.preprocessing import Preprocessing, preprocessing_of
from trainables.weights.provenance import (
    Origin,
    origin_of_config,
    origin_of_file,
    origin_of_timm,
    own_trunk,
)
from trainables.weights.sources import (
    Described,
    architecture_of,
    config_beside,
    config_of_name,
    describe,
    has_source,
    weights_file,
    with_weights,
)
from trainables.weights.tensor_files import read_tensors

logger = logging.getLogger(__name__)

CHECKPOINT = "pretrain.method.checkpoint"
COLORS = ("mean", "std")
FOREIGN = "_conv_stem.weight"  # a tensor's name in EfficientNet-PyTorch
PADS_AS_TENSORFLOW = "tf_"  # start of such networks' names in timm
LOWEST = {"mean": 0.0, "std": 1e-3}


class Weights(NamedTuple):
    """Pretrained weights of a trunk.

    ``architecture`` is the text that rebuilds the network (see `trainables.weights.sources`).
    ``tensors`` by name are from ``place``; ``None`` where timm reads its own. ``colors`` are mean
    and standard deviation of red, green and blue; ``None`` for those of an untrained trunk.
    ``remedy`` says what the file should be if tensors are missing.
    """

    architecture: str
    origin: Origin
    colors: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    tensors: Mapping[str, Tensor] | None = None
    place: str = ""
    remedy: str = ""


class Identified(NamedTuple):
    """Exact name of a recipe's weights, and their preprocessing (``None``: not known)."""

    backbone: str
    preprocessing: Preprocessing | None


def identify(backbone: str, method: Pretrainer) -> Identified:
    """Return which weights a recipe means, and the preprocessing that belongs to them.

    A name without a tag gets that of timm's usual weights, a repository of the hub its revision.
    Where a file has no ``config.json`` beside it, the log says which preprocessing is assumed.

    Raises:
        ConfigError: See `trainables.weights.sources.describe`.
    """
    checkpoint = str(getattr(method, "checkpoint", ""))
    if not checkpoint:
        described = describe(backbone)
        if described.config.get("crop_mode", "center") != "center":
            say(
                f"{described.name} was trained on images that were not cut to squares "
                f"(crop_mode {described.config['crop_mode']}); here the center square is cut"
            )
        return Identified(described.name, _preprocessing(described))
    path = Path(checkpoint)
    if _own(path) is not None:  # its images had the size that its recipe said
        return Identified(backbone, None)
    described = _of_file(path, backbone)
    found = _preprocessing(described)
    if found is not None and described.folder is None:
        say(f"{CHECKPOINT}: {path} has no config.json beside it; assumed: {found.text()}")
    return Identified(backbone, found)


def find_weights(backbone: str, method: Pretrainer, image_size: int) -> Weights | None:
    """Return the weights that a recipe starts from; ``None`` if they are drawn at random.

    Args:
        backbone: Architecture or source of the trunk.
        method: Source of its weights.
        image_size: Height and width of the images.

    Raises:
        ConfigError: They can't be had, within seconds; one line with the remedies.
    """
    checkpoint = str(getattr(method, "checkpoint", ""))
    if checkpoint:
        stated = str(getattr(method, "statement", ""))
        return _from_file(Path(checkpoint), backbone, image_size, stated)
    if not getattr(method, "timm_pretrained", False):
        return None
    if not has_source(backbone):
        require_weights(backbone)
        described = describe(backbone)
        return Weights(described.architecture, origin_of_timm(described.config), _colors(described))
    described = describe(backbone)
    path = weights_file(described)
    return Weights(
        described.architecture,
        origin_of_config(described.config, described.name),
        _colors(described),
        read_tensors(path, "pretrain.backbone"),
        f"pretrain.backbone: {path}",
    )


def _from_file(path: Path, backbone: str, image_size: int, stated: str) -> Weights:
    """Return weights of a checkpoint, which may be the ``tensors.safetensors`` of a stored trunk.

    Raises:
        ConfigError: The file is missing, damaged, or of another architecture.
    """
    own = _own(path)
    if own is not None and architecture_of(own.architecture)[0] != backbone:
        raise ConfigError(
            f"{CHECKPOINT}: {path} holds weights of '{own.architecture}'; "
            f"pretrain.backbone is '{backbone}'"
        )
    described = _of_file(path, backbone)
    tensors = read_tensors(path, CHECKPOINT) if own is None else own.state
    start = f"{CHECKPOINT}: {path}"
    colors = _stored_colors(tensors, start) or _colors(described)
    if FOREIGN in tensors and not backbone.startswith(PADS_AS_TENSORFLOW):
        say(
            f"{start} has the names of EfficientNet-PyTorch, whose networks pad and normalize as "
            f"TensorFlow's: pretrain.backbone={PADS_AS_TENSORFLOW}{backbone} computes the same"
        )
    if colors is None:
        say(f"{start} tells no mean and std of its colors; assumed: those of an untrained trunk")
    return Weights(
        described.architecture if own is None else own.architecture,
        origin_of_file(own, image_size, stated=stated, config=described.config),
        colors,
        tensors,
        start,
        ""
        if own is None
        else "a stage store shares its large tensors; give the backbone of an exported model, "
        "STORAGE/sweeps/NAME/models/TRIAL/backbone/tensors.safetensors",
    )


def _own(path: Path) -> Backbone | None:
    """Return the trunk of this project that a file belongs to.

    Raises:
        ConfigError: The file is damaged.
    """
    from safetensors import SafetensorError

    try:
        return own_trunk(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{CHECKPOINT}: {path} is no safetensors file: {error}") from None


def _of_file(path: Path, backbone: str) -> Described:
    """Return what is known of a file's weights: from beside it, else by the name of the network."""
    beside = config_beside(path)
    name = backbone.partition(".")[0]
    if beside is not None and beside.architecture.partition(" ")[0].partition(".")[0] == name:
        return beside
    config = {key: v for key, v in config_of_name(backbone).items() if key != "tag"}
    return Described(backbone, config, str(path))


@cache
def say(text: str) -> None:
    """Log a line, once in this process."""
    logger.warning("%s", text)


def _preprocessing(described: Described) -> Preprocessing | None:
    """Return the preprocessing of a network of timm; ``None`` for this project's networks."""
    return preprocessing_of(described.config, described.name) if described.config else None


def _colors(described: Described) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    found = _preprocessing(described)
    return None if found is None else (found.mean, found.std)


def _stored_colors(
    tensors: Mapping[str, Tensor], start: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and standard deviation that a file holds beside its weights.

    Raises:
        ConfigError: They are not 3 numbers each, of colors from 0 to 1.
    """
    if not any(key in tensors for key in COLORS):
        return None
    for key in COLORS:
        values = tensors[key].flatten().tolist() if key in tensors else []
        if len(values) != 3 or not all(LOWEST[key] <= value <= 1 for value in values):
            raise ConfigError(
                f"{start}: {key} must be 3 numbers in {LOWEST[key]:g}..1, of colors from 0 to 1; "
                f"received {[round(value, 4) for value in values]}"
            )
    mean, std = (tuple(tensors[key].flatten().tolist()) for key in COLORS)
    return mean, std


def load_tensors(network: nn.Module, weights: Weights) -> None:
    """Load the tensors of a file into a network; further tensors (of a head) are left out.

    Raises:
        ConfigError: Tensors are missing or have other shapes.
    """
    try:
        named = named_as(network, weights.tensors or {})
    except ConfigError as error:
        remedy = f"; {weights.remedy}" if weights.remedy else ""
        raise ConfigError(f"{weights.place}: {error}{remedy}") from None
    network.load_state_dict(named)


def require_weights(backbone: str) -> None:
    """Refuse the pretrained weights of a name of timm if they cannot be had within seconds.

    Raises:
        ConfigError: There are none, or they are not on this machine and their server does not
            answer; the message has the two remedies.
    """
    import timm

    config_of_name(backbone)  # refuses a wrong tag
    config = (
        timm.get_pretrained_cfg(backbone) if timm.is_model(backbone.partition(".")[0]) else None
    )
    if config is None or not config.has_weights:
        raise ConfigError(
            f"backbone '{backbone}' has no pretrained weights{with_weights(backbone)}; choose a "
            "network of timm that has, or set pretrain.method to pretrain this one on the data"
        )
    if config.hf_hub_id:
        require_on_hub(backbone, config.hf_hub_id, config.hf_hub_filename or SAFE_FILE)
    elif config.url:
        require_url(backbone, config.url)
