"""Sources of `pretrain.backbone`: a name of timm, a folder, a repository of the hub.

A source of weights tells an architecture of timm with its arguments, written as one text that
rebuilds the network anywhere (`architecture_text`), and a config (timm's ``pretrained_cfg``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainables.errors import ConfigError, did_you_mean
from trainables.weights.hub import hub_file, hub_folder

FOLDER, HUB = "local-dir:", "hf-hub:"
SCHEMES = (FOLDER, HUB)
CONFIG = "config.json"
FIRST_CHOICES = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
OWNER = "pretrain.backbone"
# a trunk has no classifier, and size of images, drop-out and drop-path are those of the recipe
NOT_KEPT = ("num_classes", "img_size", "pretrained", "in_chans", "drop_rate", "drop_path_rate")


class Described(NamedTuple):
    """What a source says of its weights.

    ``architecture`` is the text that rebuilds the network, ``config`` timm's ``pretrained_cfg``,
    ``name`` the source with its exact version, ``folder`` that of config and weights (``None``:
    timm finds the weights itself).
    """

    architecture: str
    config: Mapping[str, Any]
    name: str
    folder: Path | None = None


def architecture_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Return an architecture of timm and its arguments as one text.

    Example:
        >>> architecture_text("vit_tiny_patch16_224", {"class_token": False})
        'vit_tiny_patch16_224 {"class_token": false}'
        >>> architecture_text("resnet18.a1_in1k", {})
        'resnet18.a1_in1k'
    """
    return f"{name} {json.dumps(dict(arguments), sort_keys=True)}" if arguments else name


def architecture_of(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and arguments of an architecture; the inverse of `architecture_text`.

    Example:
        >>> architecture_of('vit_tiny_patch16_224 {"class_token": false}')
        ('vit_tiny_patch16_224', {'class_token': False})
    """
    name, _, arguments = text.partition(" ")
    return name, json.loads(arguments) if arguments else {}


def has_source(backbone: str) -> bool:
    """Say whether a backbone names weights of a folder or of the hub.

    Example:
        >>> has_source("hf-hub:timm/resnet18.a1_in1k"), has_source("resnet18.a1_in1k")
        (True, False)
    """
    return backbone.startswith(SCHEMES)


def check_name(backbone: str) -> None:
    """Refuse what is neither a name nor a source.

    Raises:
        ValueError: It has another prefix, none before a path or repository, or nothing after it.

    Example:
        >>> check_name("timm/resnet18.a1_in1k")
        Traceback (most recent call last):
        ValueError: pretrain.backbone: 'timm/resnet18.a1_in1k' has no source; write \
hf-hub:timm/resnet18.a1_in1k for the Hugging Face Hub, or local-dir:timm/resnet18.a1_in1k for a \
folder
    """
    scheme, colon, rest = backbone.partition(":")
    if has_source(backbone):
        if not rest.strip():
            raise ValueError(f"{OWNER}: '{backbone}' lacks what follows '{scheme}:'")
        if backbone.startswith(HUB) and rest.partition("@")[0].count("/") != 1:
            raise ValueError(
                f"{OWNER}: a repository is written hf-hub:OWNER/NAME; received '{backbone}'"
            )
        return
    if colon:
        raise ValueError(
            f"{OWNER}: unknown source '{scheme}:'; allowed: {', '.join(SCHEMES)}"
            f"{did_you_mean(f'{scheme}:', SCHEMES)}"
        )
    if "/" in backbone:
        raise ValueError(
            f"{OWNER}: '{backbone}' has no source; write {HUB}{backbone} for the Hugging Face Hub, "
            f"or {FOLDER}{backbone} for a folder"
        )


def describe(backbone: str) -> Described:
    """Return what a source says of its weights; only the hub's config may have to be downloaded.

    Args:
        backbone: A name of timm, ``hf-hub:OWNER/NAME`` (with ``@REVISION``), or ``local-dir:PATH``.

    Raises:
        ConfigError: The source is not there or can't be read; one line with remedies.
    """
    if backbone.startswith(FOLDER):
        folder = Path(backbone.removeprefix(FOLDER)).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{OWNER}: no such folder: {folder}")
        return _of_folder(folder, backbone, backbone)
    if backbone.startswith(HUB):
        repository = backbone.removeprefix(HUB)
        folder = hub_folder(repository, CONFIG, backbone)
        name = f"{HUB}{repository.partition('@')[0]}@{folder.name}"
        return _of_folder(folder, backbone, name)
    config = config_of_name(backbone)
    name = ".".join(str(config[key]) for key in ("architecture", "tag") if config.get(key))
    return Described(name or backbone, config, name or backbone)


def config_of_name(name: str) -> dict[str, Any]:
    """Return timm's config of a name's weights, with its defaults where there are none.

    A network that timm does not know has an empty config.

    Raises:
        ConfigError: timm knows the network, but not the tag.
    """
    import timm

    if not timm.is_model(name.partition(".")[0]):
        return {}
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"backbone '{name}': {error}{with_weights(name)}") from None
    return {} if config is None else dict(config.to_dict())


def with_weights(name: str) -> str:
    """Return the names of the same architecture that have weights, for a message."""
    import timm

    names = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    return f"; with weights: {', '.join(names)}" if names else ""


def weights_file(described: Described) -> Path:
    """Return the file of weights beside a source's config, which the hub may have to send.

    Raises:
        ConfigError: There is none, or the hub can't be reached.
    """
    folder = described.folder
    if folder is None:
        raise ValueError(f"{described.name}: timm finds its weights itself")
    if described.name.startswith(HUB):
        return hub_file(described.name.removeprefix(HUB), FIRST_CHOICES, described.name)
    files = [folder / name for name in FIRST_CHOICES]
    files += [path for ending in ENDINGS for path in sorted(folder.glob(f"*{ending}"))]
    found = next((path for path in files if path.is_file()), None)
    if found is None:
        raise ConfigError(
            f"{described.name}: the folder holds no weights; allowed: {', '.join(ENDINGS)}"
        )
    return found


def config_beside(path: Path) -> Described | None:
    """Return what ``config.json`` beside a file of weights says, if there is one of timm."""
    config = path.parent / CONFIG
    if not config.is_file():
        return None
    try:
        return _of_folder(path.parent, str(path), str(path))
    except ConfigError:  # of another program
        return None


def _of_folder(folder: Path, owner: str, name: str) -> Described:
    """Read ``config.json`` of a folder as timm writes it.

    Raises:
        ConfigError: It is missing, damaged, or of another program.
    """
    import timm

    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{owner}: {folder / CONFIG}: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{owner}: {folder / CONFIG} is not JSON: {error}") from None
    architecture = content.get("architecture") if isinstance(content, dict) else None
    if not isinstance(architecture, str):
        raise ConfigError(
            f"{owner}: {folder / CONFIG} names no 'architecture', so it is not a config of timm"
        )
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise ConfigError(
            f"{owner}: timm {timm.__version__} does not know the architecture '{architecture}'"
            f"{did_you_mean(architecture, known)}"
        )
    return Described(_architecture(content), _config(content), name, folder)


def _architecture(content: Mapping[str, Any]) -> str:
    """Return the architecture and the arguments that ``config.json`` gives it."""
    arguments = content.get("model_args") or {}
    kept = {key: value for key, value in arguments.items() if key not in NOT_KEPT}
    return architecture_text(str(content["architecture"]), kept)


def _config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` from ``config.json`` of today's or the former form."""
    config = dict(content.get("pretrained_cfg") or content)
    config["architecture"] = content["architecture"]
    for key in ("num_classes", "label_names", "label_descriptions"):
        if content.get(key):
            config[key] = content[key]
    if content.get("labels"):
        config["label_names"] = content["labels"]
    return config
