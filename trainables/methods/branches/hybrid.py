"""Hybrid network: features from one batch, the classifier from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.functional.joined_batch import Joined
from trainables.methods.branches import Branches
from trainables.methods.samplers import Sampler
from trainables.methods.samplers.class_balanced import ClassBalanced

if TYPE_CHECKING:
    from torch import Tensor


class Hybrid(Branches):
    """Hybrid network: contrastive loss on the usual batch, classification on a balanced batch.

    Requires the loss ``joint``, whose contrastive part gets the first batch and whose base loss
    gets the second. Hybrid-SC is ``{joint: {contrast: supcon, weight: 1, schedule: cumulative}}``,
    Hybrid-PSC the same with ``contrast: psc``.

    Args:
        second_sampler: Sampler of the second batch. Default class_balanced.

    Shapes:
        features ``[N, D]`` (N is twice the batch size, two views per image), second_features
        ``[B, D]``, labels ``[N]``, second_labels ``[B]`` -> features ``[B, D]`` for the head.

    Source:
        Wang et al. 2021, "Contrastive Learning based Hybrid Networks for Long-Tailed Image
        Classification", arXiv:2103.14267, section 3.1; not compared with reference code.

    Example:
        >>> import torch
        >>> joined = Hybrid()(
        ...     features=torch.zeros(2, 1), labels=torch.tensor([0, 0]),
        ...     second_features=torch.ones(1, 1), second_labels=torch.tensor([2]), progress=0.5)
        >>> joined.features.tolist(), joined.labels.tolist(), joined.compared_labels.tolist()
        ([[1.0]], [2], [0, 0])
    """

    second_sampler: Sampler = ClassBalanced()

    def other_sampler(self) -> Sampler:
        return self.second_sampler

    def __call__(
        self,
        *,
        features: Tensor,
        labels: Tensor,
        second_features: Tensor,
        second_labels: Tensor,
        progress: float,
    ) -> Joined:
        observed = features.detach()
        return Joined(
            second_features, second_labels, second_labels, 1.0, features, labels, observed
        )
