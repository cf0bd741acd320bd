"""One batch per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.branching import Joined
from trainables.methods.branches import Branches

if TYPE_CHECKING:
    from torch import Tensor


class NoBranches(Branches):
    """One batch per step, and one way through the network.

    Shapes:
        features ``[B, D]``, labels ``[B]`` -> the same, for head and loss.

    Source:
        None: the baseline.

    Example:
        >>> import torch
        >>> NoBranches()(features=torch.ones(1, 2), labels=torch.tensor([3])).labels
        tensor([3])
    """

    def __call__(self, *, features: Tensor, labels: Tensor) -> Joined:
        return Joined(features, labels, labels, 1.0, features, labels, features.detach())
