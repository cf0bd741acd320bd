"""Bilateral-branch network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field

from trainables.functional.joined_batch import Joined, cumulative_share
from trainables.methods.branches import Branches
from trainables.methods.samplers import Sampler
from trainables.methods.samplers.reversed import Reversed

if TYPE_CHECKING:
    from torch import Tensor


class BBN(Branches):
    """Bilateral-branch network (BBN) with a conventional and a rebalancing branch.

    The trunk's last block has two copies. The conventional branch gets the usual batch (features
    ``f``), the rebalancing branch a batch of reversed sampling (features ``g``). The head's input
    is ``[2 a f ; 2 (1 - a) g]`` and ``loss = a L(y_f) + (1 - a) L(y_g)``. As
    ``a = 1 - (reach * progress)^2``, training shifts from the first to the second batch. In a
    prediction ``a = 1/2``, so the features of both branches are concatenated unscaled.

    Args:
        second_sampler: Sampler of the second batch. Default reversed.
        reach: In (0, 1]. Default 1; the reference code takes 0.9 for trainings of 90 and 180
            epochs.

    Shapes:
        features and second_features ``[B, D]``, labels and second_labels ``[B]`` -> features
        ``[B, 2 D]`` for the head.

    With the head ``linear`` the classifier equals the reference code's: one linear layer with one
    bias and the factor 2. The paper's two classifiers are the head ``experts`` with two experts,
    up to their biases, which are averaged. ``a`` changes at every step, in the reference code at
    every epoch; at the start of an epoch both are equal.

    Source:
        Zhou et al. 2020, "BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed
        Visual Recognition", arXiv:1912.02413, equations 1-4; reference code Megvii-Nanjing/BBN,
        lib/core/combiner.py.

    Example:
        >>> joined = BBN()(
        ...     features=torch.ones(1, 1), labels=torch.tensor([0]),
        ...     second_features=torch.ones(1, 1), second_labels=torch.tensor([2]), progress=0.5)
        >>> joined.features, joined.share
        (tensor([[1.5000, 0.5000]]), 0.75)
    """

    trunk_ending: ClassVar[str] = "2xblock"

    second_sampler: Sampler = Reversed()
    reach: Annotated[float, Field(gt=0, le=1)] = 1.0

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
        alpha = cumulative_share(progress, reach=self.reach)
        both = torch.cat([features, second_features], dim=1)
        weighed = torch.cat([2 * alpha * features, 2 * (1 - alpha) * second_features], dim=1)
        return Joined(weighed, labels, second_labels, alpha, both, labels, both.detach())
