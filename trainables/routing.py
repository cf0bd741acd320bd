"""A trunk with branches that computes no more of them than gates ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from trainables.backbone import Trunk
from trainables.networks import Branched
from trainables.routed_experts import RoutedExpertsHead


def as_needed(trunk: Trunk, heads: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Return a function from images to features that spares the branches no head asks for.

    Features of a branch that an image is spared are zero, which changes the answer of none of the
    heads. Where that is not possible, the function is the whole trunk.

    Args:
        trunk: In evaluation mode.
        heads: All that will read the features, on the CPU in evaluation mode.
    """
    routed = [head for head in heads if isinstance(head, RoutedExpertsHead) and not head.shared]
    if len(routed) < len(heads) or any(len(h.experts) != trunk.num_branches for h in routed):
        return trunk
    return _Sparing(trunk, routed)


class _Sparing:
    """Branch after branch, each for the images that a gate sends on."""

    def __init__(self, trunk: Trunk, heads: Sequence[RoutedExpertsHead]) -> None:
        self.trunk, self.heads = trunk, heads

    def __call__(self, images: Tensor) -> Tensor:
        """Return features ``[B, E * D]`` on the CPU."""
        network, number = cast(Branched, self.trunk.network), self.trunk.num_branches
        maps = network.shared_maps(self.trunk.normalize(images))
        features = torch.zeros(len(images), number, self.trunk.num_features // number)
        rows = torch.arange(len(images))
        for branch in range(number):
            part = network.finish(maps[rows.to(maps.device)], branch)
            features[rows, branch] = part.float().cpu()
            if branch + 1 == number:
                break
            seen = features[rows].flatten(1)
            used = torch.stack([head.experts_used(seen) for head in self.heads]).amax(dim=0)
            rows = rows[used > branch + 1]
            if not len(rows):
                break
        return features.flatten(1)
