"""Blocks of a trunk, from the first to the last, and which of its weights a training changes."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn

from trainables.models.backbone import Trunk
from trainables.models.networks import OWN_BLOCK


def blocks_of(trunk: Trunk) -> list[list[str]]:
    """Return the names of the parameters of each block, the stem first.

    A block of timm's networks is what `timm.models.group_parameters` calls a layer: a residual
    block or a block of a transformer. What follows the last block belongs to it.

    Example:
        >>> from trainables.models.backbone import build_trunk
        >>> [names[0] for names in blocks_of(build_trunk("fastnet", 32))][:2]
        ['network.stem.weight', 'network.groups.0.conv1.weight']
    """
    network = trunk.network
    matcher = getattr(network, "group_matcher", None)
    if matcher is None:
        numbers = {name: _own_block(name) for name, _ in network.named_parameters()}
    else:
        from timm.models import group_parameters

        numbers = group_parameters(network, matcher(coarse=False), reverse=True)
    blocks: dict[object, list[str]] = {}
    for name, number in numbers.items():
        blocks.setdefault(number, []).append(f"network.{name}")
    return list(blocks.values())


def _own_block(name: str) -> str:
    """Return the block of a parameter of this project's networks."""
    found = re.search(OWN_BLOCK, name)
    return found[0] if found else "stem"


def train_only(trunk: nn.Module, names: Collection[str]) -> None:
    """Let a training change these parameters of a trunk and no others."""
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(name in names)


def training_mode(trunk: nn.Module) -> None:
    """Put a trunk into training mode, except for the modules of which no weight is trained.

    So a frozen batch norm keeps its running statistics and normalizes by them.

    Example:
        >>> trunk = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
        >>> train_only(trunk, {"1.weight"})
        >>> training_mode(trunk)
        >>> [part.training for part in trunk]
        [False, True]
    """
    trunk.train()
    for module in trunk.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            module.eval()
