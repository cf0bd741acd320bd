"""One batch per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.functional.joined_batch import Joined
from trainables.methods.branches import Branches

if TYPE_CHECKING:
    from torch import Tensor


class NoBranches(Branches):
    """One batch per step through an unbranched trunk.

    Shapes:
        features ``[B, D]``, labels ``[B]`` -> the same features and labels for head and loss.

    Source:
        None: the baseline.

    Example:
        >>> import torch
        >>> NoBranches()(features=torch.ones(1, 2), labels=torch.tensor([3])).labels
        tensor([3])
    """

    def __call__(self, *, features: Tensor, labels: Tensor) -> Joined:
        return Joined(features, labels, labels, 1.0, features, labels, features.detach())
