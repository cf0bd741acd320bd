"""Head of balanced group softmax."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head


class GroupSoftmax(Head):
    """Linear classifier with one softmax per group of classes and "others" (BAGS).

    ``logits_c = log P_g(c)`` with g the group of c, where ``P_g`` is the softmax over the classes
    of the group and "others", which stands for all classes outside the group. The predicted
    probability is the softmax of the logits, ``P_g(c) / sum_k P_g(k)``.

    The rebalancer ``bags`` builds this head with groups by class size. In ``classify.head``,
    consecutive classes form the groups. Classes that are appended later form a separate group.

    Args:
        num_groups: Initial number of groups, >= 1. Default 2. Loaded weights bring their groups.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``, at most 0.

    Source:
        Li et al. 2020, "Overcoming Classifier Imbalance for Long-tail Object Detection with
        Balanced Group Softmax", arXiv:2006.10408, section 4; reference code
        FishYuLi/BalancedGroupSoftmax. Image classification has no background, so the reference's
        background group is left out.

    Example:
        >>> head = GroupSoftmax(num_groups=1).build(2, 1)
        >>> head.weight.data, head.others_weight.data = torch.eye(2)[:1], torch.eye(2)[1:]
        >>> head.bias.data.zero_(), head.others_bias.data.zero_()
        (tensor([0.]), tensor([0.]))
        >>> head(torch.zeros(1, 2)).exp()  # class and "others" have equal probability
        tensor([[0.5000]], grad_fn=<ExpBackward0>)
    """

    num_groups: Annotated[int, Field(ge=1, le=64)] = 2

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.models.group_softmax import GroupSoftmaxHead

        return GroupSoftmaxHead(num_features, num_classes, num_groups=self.num_groups)
