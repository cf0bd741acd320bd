"""Several heads that are asked one after the other."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads.experts import Experts


class RoutedExperts(Experts):
    """Experts in a row: the first answers every sample, a gate decides whether the next one helps.

    The mean logits of those that were asked decide. The rebalancer ``expert_routing`` makes it from
    the head ``experts`` and trains the gates; as head of the first classifier the gates train with
    all the rest, on the mean over their decisions.

    Args:
        base: Kind of the experts' heads. Default linear.
        count: How many. Default 3.
        own: What of the trunk each expert has for itself; see ``experts``.
        weights: One per expert; those of the experts that were asked count. None: all alike.
        top_choices: Largest logits that a gate sees. Default 30 (released CIFAR-100 recipe).
        hidden: Width of a gate's layer on the features. Default 16 (released code).

    Shapes:
        features ``[B, count * D]``, the experts' side by side (``[B, D]`` with ``"nothing"``) ->
        logits ``[B, C]``. The module's ``experts_used`` gives ``[B]``.

    A served model computes the branches that the gates ask for (`trainables.routing`); the stages
    cache the features of all, and `evaluate` says how many were asked (``cost/experts_used``).

    Raises:
        ValueError: The features can't be shared out evenly.

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
        from trainables.routed_experts import RoutedExpertsHead

        return RoutedExpertsHead(
            self.heads(num_features, num_classes),
            num_features=num_features,
            shared=self.own == "nothing",
            weights=self.weights,
            num_classes=num_classes,
            top_choices=self.top_choices,
            hidden=self.hidden,
        )
