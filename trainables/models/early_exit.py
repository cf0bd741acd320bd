"""Inference that computes only the expert branches the gates request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from trainables.models.backbone import Trunk
from trainables.models.networks import Branched
from trainables.models.routed_experts import RoutedExpertsHead


def as_needed(trunk: Trunk, heads: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Return a function from images to features that skips the branches no head requests.

    The features of a skipped branch are zero and do not affect the heads' logits. If a head is not
    a routed one with one expert per branch, the function is the trunk itself, which skips nothing.

    Args:
        trunk: Trunk in evaluation mode.
        heads: All heads that use the features, on the CPU in evaluation mode.
    """
    routed = [head for head in heads if isinstance(head, RoutedExpertsHead) and not head.shared]
    if len(routed) < len(heads) or any(len(h.experts) != trunk.num_branches for h in routed):
        return trunk
    return _Sparing(trunk, routed)


class _Sparing:
    """Forward pass that computes each branch only for images whose gate requests the branch."""

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
