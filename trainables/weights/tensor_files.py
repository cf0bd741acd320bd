"""Files of tensors by name: safetensors, and torch's files as far as no code has to be run."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.errors import ConfigError

SAFE = ".safetensors"
TORCH = (".pth", ".pt", ".bin")
# where files of training programs keep their tensors; averaged weights come first, as in timm
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model", "module")


def read_tensors(path: Path, owner: str) -> dict[str, Tensor]:
    """Return a file's tensors by name, on the CPU; nothing in the file is run.

    Args:
        path: A file that ends in ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``.
        owner: Setting that names the file, for messages.

    Raises:
        ConfigError: The file is missing, damaged, holds no tensors, or more than tensors.
    """
    if not path.is_file():
        raise ConfigError(f"{owner}: no such file: {path}")
    found = _read_safe(path, owner) if path.suffix == SAFE else _read_torch(path, owner)
    if not found:
        raise ConfigError(f"{owner}: {path} holds no tensors by name")
    return found


def _read_safe(path: Path, owner: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{owner}: {path} is no safetensors file: {error}") from None
    return tensors


def _read_torch(path: Path, owner: str) -> dict[str, Tensor]:
    try:
        # training programs keep their options, plain values, beside the tensors
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError(
            f"{owner}: {path} is damaged, or holds more than tensors, which could run code; save "
            "the network's state_dict() as a .safetensors file"
        ) from None
    except Exception as error:  # parsers of foreign bytes raise whatever they run into
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConfigError(f"{owner}: {path} is no file of torch: {reason}") from None
    return _tensors_of(content, path, owner)


def _tensors_of(content: Any, path: Path, owner: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the only one in a file."""
    if not isinstance(content, Mapping):
        return {}
    own = _tensors_in(content)
    if own:
        return own
    inner = {str(name): _tensors_in(part) for name, part in content.items()}
    inner = {name: part for name, part in inner.items() if part}
    known = next((name for name in CONTAINERS if name in inner), None)
    if known is None and len(inner) > 1:
        raise ConfigError(
            f"{owner}: {path} holds several sets of tensors: {', '.join(inner)}; save the one that "
            "is wanted alone"
        )
    return inner[known] if known else next(iter(inner.values()), {})


def _tensors_in(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
