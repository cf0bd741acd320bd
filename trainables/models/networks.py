"""This project's networks: FastNet, CIFAR ResNet-32, 3x3-stem ResNet-18, and branched copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu


class ConvGroup(nn.Module):
    """Two 3x3 convolutions to ``width`` channels, with a 2x2 max-pool after the first."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of half the height and width."""
        maps = nn.functional.max_pool2d(self.conv1(maps), 2)
        maps = relu(self.norm1(maps), inplace=True)
        return relu(self.norm2(self.conv2(maps)), inplace=True)


class FastNet(nn.Module):
    """A shallow conv-pool network (0.29 M parameters) for images of at least 8x8.

    It has a stem convolution, three `ConvGroup`s and a global max-pool, as airbench94 (Keller
    Jordan, 2024), but narrower groups. On one CPU core it reaches twice the accuracy of a ResNet-32
    per second of training. airbench's whitening first layer is left out, so that the initial
    weights do not depend on data.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128), stem: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1, bias=True)
        channels = (stem, *widths[:-1])
        self.groups = nn.ModuleList(map(ConvGroup, channels, widths))
        self.num_features = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        return self.pool(list(self.maps(images).values())[-1])

    def pool(self, maps: Tensor) -> Tensor:
        """Return features of the last maps."""
        return maps.amax(dim=(2, 3))

    def take_tail(self, part: str) -> nn.Module:
        """Remove the last group and return it; ``part`` makes no difference."""
        last = self.groups[-1]
        self.groups = self.groups[:-1]
        return last

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the output of each group by name."""
        maps, named = relu(self.stem(images)), {}
        for number, group in enumerate(self.groups, start=1):
            maps = named[f"group{number}"] = group(maps)
        return named


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: option A (no parameters) or a 1x1 convolution."""

    def __init__(self, channels: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - channels
        self.shortcut: nn.Module | None = None
        if project and (stride != 1 or self.extra):
            convolution = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's maps."""
        branch = relu(self.norm1(self.conv1(maps)), inplace=True)
        branch = self.norm2(self.conv2(branch))
        return relu(branch + self._skip(maps), inplace=True)

    def _skip(self, maps: Tensor) -> Tensor:
        if self.shortcut is not None:
            skipped: Tensor = self.shortcut(maps)
            return skipped
        if self.stride != 1:
            maps = maps[:, :, :: self.stride, :: self.stride]
        if self.extra:  # option A pads with zero channels, half before and half after
            maps = pad(maps, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))
        return maps


class SmallResNet(nn.Module):
    """A ResNet of basic blocks with a 3x3 stem and no max-pool, for small images.

    ``widths`` are the channels of the stages, each of which but the first halves the resolution;
    ``blocks`` is the number of blocks per stage; ``project`` chooses 1x1 shortcuts instead of
    option A.
    """

    def __init__(self, widths: Sequence[int], blocks: int, *, project: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList()
        channels = widths[0]
        for number, width in enumerate(widths):
            stage = [BasicBlock(channels, width, 1 if number == 0 else 2, project=project)]
            stage += [BasicBlock(width, width, 1, project=project) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*stage))
            channels = width
        self.num_features = channels

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        return self.pool(list(self.maps(images).values())[-1])

    def pool(self, maps: Tensor) -> Tensor:
        """Return features of the last maps."""
        return maps.mean(dim=(2, 3))

    def take_tail(self, part: str) -> nn.Module:
        """Remove the last block or the last stage and return it."""
        last = cast(nn.Sequential, self.stages[-1])
        if part == "block":
            self.stages[-1] = last[:-1]
            return last[-1]
        self.stages = self.stages[:-1]
        return last

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the output of each stage by name."""
        maps, named = relu(self.norm(self.stem(images)), inplace=True), {}
        for number, stage in enumerate(self.stages, start=1):
            maps = named[f"stage{number}"] = stage(maps)
        return named


class Branched(nn.Module):
    """A network whose last block or stage exists in several copies on the same input maps.

    The branches' features are concatenated. The first branch keeps the network's weights; the
    other branches get new random weights, because equal branches might stay equal.

    Args:
        network: The network; its last block or stage is removed in place.
        copies: Number of branches.
        part: Part of the network that is copied: ``block`` or ``stage``.
        generator: Draws the weights of the new branches.
    """

    def __init__(
        self,
        network: FastNet | SmallResNet,
        *,
        copies: int,
        part: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        first = network.take_tail(part)
        self.shared = network
        self.branches = nn.ModuleList([first, *(deepcopy(first) for _ in range(copies - 1))])
        for branch in self.branches[1:]:
            initialize(branch, generator)
            for module in branch.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.reset_parameters()
        self.copies, self.part = copies, part
        self.num_features = copies * network.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of all branches ``[B, copies * D]``."""
        maps = self.shared_maps(images)
        return torch.cat([self.finish(maps, number) for number in range(self.copies)], dim=1)

    def branch(self, images: Tensor, number: int) -> Tensor:
        """Return the features of one branch ``[B, D]``, without computing the others."""
        return self.finish(self.shared_maps(images), number)

    def shared_maps(self, images: Tensor) -> Tensor:
        """Return the input maps of the branches."""
        return list(self.shared.maps(images).values())[-1]

    def finish(self, maps: Tensor, number: int) -> Tensor:
        """Return the features of one branch ``[B, D]``, from the shared maps."""
        return self.shared.pool(self.branches[number](maps))

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the shared maps by name, and the branches' maps, concatenated."""
        named = self.shared.maps(images)
        last = list(named.values())[-1]
        return {**named, "branches": torch.cat([branch(last) for branch in self.branches], dim=1)}


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all convolution weights from a Kaiming normal distribution and set biases to zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# in the name of a parameter: the block that it belongs to; the stem is what is in none
OWN_BLOCK = r"groups\.\d+|stages\.\d+\.\d+|branches"
OWN: dict[str, Callable[[], FastNet | SmallResNet]] = {
    "fastnet": FastNet,
    "resnet32": lambda: SmallResNet((16, 32, 64), 5, project=False),
    "resnet18_small": lambda: SmallResNet((64, 128, 256, 512), 2, project=True),
}
