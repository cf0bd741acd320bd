"""Low-rank changes of a trunk's linear layers, by the layers of the optional package peft."""

from __future__ import annotations

from typing import Any

from torch import nn

from trainables.errors import ConfigError
from trainables.models.backbone import Trunk

MARK = "lora_"  # begins the last part but one of the names of peft's parameters


def add_low_rank(trunk: Trunk, *, rank: int, alpha: float) -> None:
    """Let each linear layer have a change of a low rank, in place; it is zero at the start.

    Weights are drawn from torch's global generator.

    Raises:
        ConfigError: There are no linear layers, or peft is not installed.
    """
    names = [n for n, part in trunk.network.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise ConfigError(
            f"lora: {type(trunk.network).__name__} has no linear layers; choose a transformer as "
            "pretrain.backbone, or set classify.trunk to last_blocks or full"
        )
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)
    peft.inject_adapter_in_model(config, trunk.network)


def low_rank_parameters(trunk: Trunk) -> list[str]:
    """Return the names of the parameters of the low-rank changes."""
    return [name for name, _ in trunk.named_parameters() if f".{MARK}" in name]


def merge_low_rank(trunk: Trunk) -> None:
    """Add the changes to the layers' weights and take them out of the trunk, in place."""
    layer_type = _peft().tuners.lora.LoraLayer
    for name, layer in list(trunk.named_modules()):
        if isinstance(layer, layer_type):
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(trunk.get_submodule(parent), own, layer.get_base_layer())


def _peft() -> Any:
    """Return the package peft.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(
            "lora needs the package peft, which is not installed; install it (pip install peft), "
            "or set classify.trunk to last_blocks or full"
        ) from None
    return peft
