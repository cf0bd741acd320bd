"""Head of balanced group softmax."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from trainables.methods.heads import Head


class GroupSoftmax(Head):
    """Linear classifier whose classes compete within groups, each with a slot for "the others".

    ``logits_c = log P_g(c)``, g the group of c: ``P_g`` is the softmax over the group's classes and
    its others. Their softmax, the probability that is reported, is ``P_g(c) / sum_k P_g(k)``.

    The rebalancer ``bags`` makes it, with groups by class size. As head of the first classifier
    the classes are grouped in the order of their numbers. New classes become a group of their own.

    Args:
        num_groups: Groups at first, >= 1. Default 2. What is stored with weights wins.

    Shapes:
        features ``[B, D]`` -> logits ``[B, C]``, none above 0.

    Source:
        Li et al. 2020, "Overcoming Classifier Imbalance for Long-tail Object Detection with
        Balanced Group Softmax", arXiv:2006.10408, section 4; reference code
        FishYuLi/BalancedGroupSoftmax, whose group for the background has no place here.

    Example:
        >>> head = GroupSoftmax(num_groups=1).build(2, 1)
        >>> head.weight.data, head.others_weight.data = torch.eye(2)[:1], torch.eye(2)[1:]
        >>> head.bias.data.zero_(), head.others_bias.data.zero_()
        (tensor([0.]), tensor([0.]))
        >>> head(torch.zeros(1, 2)).exp()  # the class or the others, one as likely as the other
        tensor([[0.5000]], grad_fn=<ExpBackward0>)
    """

    num_groups: Annotated[int, Field(ge=1, le=64)] = 2

    def build(self, num_features: int, num_classes: int) -> torch.nn.Module:
        from trainables.group_softmax import GroupSoftmaxHead

        return GroupSoftmaxHead(num_features, num_classes, num_groups=self.num_groups)
