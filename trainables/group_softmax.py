"""Balanced group softmax: classes compete within groups of like size, and with "the others"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.class_weights import filled_counts, full_precision
from trainables.growth import grow_rows


class GroupLogits(NamedTuple):
    """``classes [B, C]``, and ``others [B, G]``: what each group gives to all other classes."""

    classes: Tensor
    others: Tensor


def count_groups(class_counts: Tensor, edges: Sequence[int]) -> Tensor:
    """Return the group of each class ``[C]`` by its training images, 0 the rarest.

    Group numbers are those that occur, without gaps. An absent class joins the rarest present one:
    in a group of its own it would never learn to stay silent.

    Example:
        >>> count_groups(torch.tensor([2000, 150, 120, 0, 3]), (10, 100, 1000))
        tensor([2, 1, 1, 0, 0])
    """
    limits = torch.tensor(edges, dtype=torch.float64, device=class_counts.device)
    group = torch.bucketize(filled_counts(class_counts), limits, right=True)
    numbered: Tensor = torch.unique(group, return_inverse=True)[1]
    return numbered


def group_normalizers(logits: GroupLogits, group: Tensor) -> Tensor:
    """Return the log of each group's softmax denominator ``[B, G]``, its others included."""
    member = group[:, None] == torch.arange(logits.others.shape[1], device=group.device)
    inside = logits.classes[:, :, None].masked_fill(~member, -torch.inf)
    return torch.cat([logits.others[:, None], inside], dim=1).logsumexp(dim=1)


def group_loss(logits: GroupLogits, group: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """Return the sum over groups of the mean cross-entropy of the samples that it keeps.

    A group's target is the sample's class where that is a member, else its others.

    Args:
        logits: Of a batch.
        group: Group of each class ``[C]``.
        labels: ``[B]`` int64; -1 is a class of no group.
        kept: Which samples count in which group, bool ``[B, G]``. A group without any gives 0.
    """
    # without a list of the members: a GPU would be waited for to count it
    own = labels.clamp(min=0)[:, None]
    place = group[own]
    chosen = torch.where(
        labels[:, None] >= 0, logits.classes.gather(1, own), logits.others.gather(1, place)
    )
    target = logits.others.scatter(1, place, chosen)
    each = (group_normalizers(logits, group) - target) * kept
    return (each.sum(0) / kept.sum(0).clamp(min=1)).sum()


def keep_others(member_group: Tensor, ratio: float, uniforms: Tensor) -> Tensor:
    """Return which samples count in which group, bool ``[B, G]``.

    All members count, and for each member ``ratio`` others at most, those with the smallest
    numbers; a group that has no member in the batch learns nothing from it.

    Args:
        member_group: Group of each sample ``[B]``.
        ratio: Others per member, >= 0.
        uniforms: A number drawn in [0, 1) for each sample in each group ``[B, G]``.

    Example:
        >>> groups = torch.tensor([0, 1, 1, 1, 1])
        >>> keep_others(groups, 1.0, torch.rand(5, 3)).sum(0).tolist()
        [2, 5, 0]
    """
    member = member_group[:, None] == torch.arange(uniforms.shape[1], device=uniforms.device)
    rank = uniforms.masked_fill(member, -1.0).argsort(dim=0).argsort(dim=0)
    members = member.sum(0)
    return rank < members + (members * ratio).floor()


class GroupSoftmaxHead(nn.Module):
    """Logits ``log P_g(c)``: a class's probability in its own group, the others' slot dropped.

    The groups are part of the state (``group [C]``), so a stored head brings its own.

    Args:
        num_features: D.
        num_classes: C.
        num_groups: G at first: classes in order of their numbers, groups of like length.
    """

    group: Tensor

    def __init__(self, num_features: int, num_classes: int, *, num_groups: int) -> None:
        super().__init__()
        groups = min(num_groups, num_classes)
        classes, others = nn.Linear(num_features, num_classes), nn.Linear(num_features, groups)
        self.weight, self.bias = classes.weight, classes.bias
        self.others_weight, self.others_bias = others.weight, others.bias
        self.register_buffer("group", torch.arange(num_classes) * groups // max(num_classes, 1))

    def parts(self, features: Tensor) -> GroupLogits:
        """Return the logits of the classes and of each group's others."""
        linear = nn.functional.linear
        return GroupLogits(
            full_precision(linear(features, self.weight, self.bias)),
            full_precision(linear(features, self.others_weight, self.others_bias)),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``, none above 0."""
        logits = self.parts(features)
        return logits.classes - group_normalizers(logits, self.group)[:, self.group]

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes as a group of their own, so that no old logit changes.

        Its others are the mean of the old groups'; see `trainables.modules.grow_head`.
        """
        if num_new == 0:
            return
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
        value = float(self.bias.data.mean()) if new_bias is None else new_bias
        self.bias = _appended(self.bias, self.bias.data.new_full((num_new,), value))
        group = self.group.new_full((num_new,), len(self.others_bias))
        self.group = torch.cat([self.group, group])
        for name in ("others_weight", "others_bias"):
            old: nn.Parameter = getattr(self, name)
            setattr(self, name, _appended(old, old.data.mean(0, keepdim=True)))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take over as many groups as the stored head has."""
        for name in ("others_weight", "others_bias"):
            own, stored = getattr(self, name), state_dict.get(f"{prefix}{name}")
            if stored is not None and stored.shape[1:] == own.shape[1:]:
                fitted = own.data.new_zeros(stored.shape)
                setattr(self, name, nn.Parameter(fitted, requires_grad=own.requires_grad))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class RawGroups(nn.Module):
    """A group-softmax head as it trains: ``[classes | others]`` side by side, ``[B, C + G]``.

    Args:
        head: Used as it is, not copied.
    """

    def __init__(self, head: GroupSoftmaxHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of both parts."""
        return torch.cat(self.head.parts(features), dim=1)

    def split(self, logits: Tensor) -> GroupLogits:
        """Part what `forward` gave."""
        classes = len(self.head.bias)
        return GroupLogits(logits[:, :classes], logits[:, classes:])


def _appended(old: nn.Parameter, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([old.data, rows]), requires_grad=old.requires_grad)
