"""Experts in a sequence with gates (RIDE's routing)."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads.experts import Experts


class RoutedExperts(Experts):
    """Experts in a sequence; after each expert a gate decides whether to use the next one.

    The logits are the mean over the used experts. The rebalancer ``expert_routing`` builds this
    head from the head ``experts`` and trains the gates; in ``classify.head`` gates and experts are
    trained together, on the expected logits over the gates' decisions.

    Args:
        base: Kind of the experts' heads. Default linear.
        count: Number of experts. Default 3.
        own: Part of the trunk that each expert has a separate copy of; see ``experts``.
        weights: Weight of each expert in the mean; by default all weights are equal.
        top_choices: Number of largest logits that a gate gets. Default 30 (reference recipe for
            CIFAR-100).
        hidden: Width of a gate's hidden layer on the features. Default 16 (reference code).

    Shapes:
        features ``[B, count * D]``, concatenated over the experts (``[B, D]`` with ``"nothing"``)
        -> logits ``[B, C]``. The module's ``experts_used`` returns ``[B]``.

    A served model computes only the branches that the gates request
    (`trainables.models.early_exit`). The stages cache the features of all branches, and `evaluate`
    reports the mean number of used experts (``cost/experts_used``).

    Raises:
        ValueError: The feature dimension is not a multiple of ``count``.

    Source:
        Wang et al. 2021, "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts",
        arXiv:2010.01809, section 3.3; reference code frank-xwang/RIDE-LongTailRecognition,
        model/ldam_drw_resnets/ea_resnet_cifar.py.

    Example:
        >>> module = RoutedExperts(count=3).build(12, 5).eval()
        >>> module(torch.zeros(2, 12)).shape, module.experts_used(torch.zeros(2, 12)).shape
        (torch.Size([2, 5]), torch.Size([2]))
    """

    top_choices: Annotated[int, Field(ge=1)] = 30
    hidden: Annotated[int, Field(ge=1)] = 16

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.routed_experts import RoutedExpertsHead

        return RoutedExpertsHead(
            self.heads(num_features, num_classes),
            num_features=num_features,
            shared=self.own == "nothing",
            weights=self.weights,
            num_classes=num_classes,
            top_choices=self.top_choices,
            hidden=self.hidden,
        )
