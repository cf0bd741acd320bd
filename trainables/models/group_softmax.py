"""Balanced group softmax: one softmax per group of similarly frequent classes and "others"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.functional.class_weights import filled_counts, full_precision
from trainables.models.growth import grow_rows


class GroupLogits(NamedTuple):
    """Logits of the classes ``[B, C]`` and of "others", the classes outside a group, ``[B, G]``."""

    classes: Tensor
    others: Tensor


def count_groups(class_counts: Tensor, edges: Sequence[int]) -> Tensor:
    """Return the group of each class ``[C]`` by its number of training images, 0 the rarest.

    Group numbers have no gaps. An absent class joins the group of the rarest present class, because
    a separate group would never have a sample and its logits would stay untrained.

    Example:
        >>> count_groups(torch.tensor([2000, 150, 120, 0, 3]), (10, 100, 1000))
        tensor([2, 1, 1, 0, 0])
    """
    limits = torch.tensor(edges, dtype=torch.float64, device=class_counts.device)
    group = torch.bucketize(filled_counts(class_counts), limits, right=True)
    numbered: Tensor = torch.unique(group, return_inverse=True)[1]
    return numbered


def group_normalizers(logits: GroupLogits, group: Tensor) -> Tensor:
    """Return the log of each group's softmax denominator ``[B, G]``, "others" included."""
    member = group[:, None] == torch.arange(logits.others.shape[1], device=group.device)
    inside = logits.classes[:, :, None].masked_fill(~member, -torch.inf)
    return torch.cat([logits.others[:, None], inside], dim=1).logsumexp(dim=1)


def group_loss(logits: GroupLogits, group: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """Return the sum over groups of the mean cross-entropy over the group's kept samples.

    The target within a group is the sample's class if the group contains the class, otherwise
    "others".

    Args:
        logits: Logits of a batch.
        group: Group of each class ``[C]``.
        labels: ``[B]`` int64; -1 for a class of no group.
        kept: Mask of samples per group, bool ``[B, G]``; a group without samples adds 0.
    """
    # masks instead of index lists, because the length of a list would synchronize with a GPU
    index = labels.clamp(min=0)[:, None]
    label_group = group[index]
    chosen = torch.where(
        labels[:, None] >= 0, logits.classes.gather(1, index), logits.others.gather(1, label_group)
    )
    target = logits.others.scatter(1, label_group, chosen)
    each = (group_normalizers(logits, group) - target) * kept
    return (each.sum(0) / kept.sum(0).clamp(min=1)).sum()


def keep_others(member_group: Tensor, ratio: float, uniforms: Tensor) -> Tensor:
    """Return the mask of samples that each group trains on, bool ``[B, G]``.

    A group keeps all its members, and at most ``ratio`` non-members per member, chosen by the
    smallest random numbers. A group without a member in the batch keeps nothing.

    Args:
        member_group: Group of each sample ``[B]``.
        ratio: Non-members per member, >= 0.
        uniforms: Uniform random numbers in [0, 1), one per sample and group ``[B, G]``.

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
    """Head with logits ``log P_g(c)``, the log probability of a class within its group g.

    The logits of "others" are dropped. The state contains the groups (``group [C]``), so a stored
    head keeps its groups.

    Args:
        num_features: D.
        num_classes: C.
        num_groups: G; initially, consecutive classes form groups of nearly equal size.
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
        """Return the logits of the classes and of each group's "others"."""
        linear = nn.functional.linear
        return GroupLogits(
            full_precision(linear(features, self.weight, self.bias)),
            full_precision(linear(features, self.others_weight, self.others_bias)),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``, at most 0."""
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
        """Append classes as a separate group, so that no old logit changes.

        The weights of the new group's "others" are the mean of the old groups'; see
        `trainables.models.growth.grow_head`.
        """
        if num_new == 0:
            return
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
        value = float(self.bias.data.mean()) if new_bias is None else new_bias
        self.bias = _append_rows(self.bias, self.bias.data.new_full((num_new,), value))
        group = self.group.new_full((num_new,), len(self.others_bias))
        self.group = torch.cat([self.group, group])
        for name in ("others_weight", "others_bias"):
            old: nn.Parameter = getattr(self, name)
            setattr(self, name, _append_rows(old, old.data.mean(0, keepdim=True)))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Resize the parameters of "others" to the stored number of groups, then load."""
        for name in ("others_weight", "others_bias"):
            parameter, stored = getattr(self, name), state_dict.get(f"{prefix}{name}")
            if stored is not None and stored.shape[1:] == parameter.shape[1:]:
                fitted = parameter.data.new_zeros(stored.shape)
                setattr(self, name, nn.Parameter(fitted, requires_grad=parameter.requires_grad))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class RawGroups(nn.Module):
    """A group-softmax head for training: logits ``[classes | others]``, ``[B, C + G]``.

    Args:
        head: The head; not copied.
    """

    def __init__(self, head: GroupSoftmaxHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of classes and "others", concatenated."""
        return torch.cat(self.head.parts(features), dim=1)

    def split(self, logits: Tensor) -> GroupLogits:
        """Split the output of `forward`."""
        classes = len(self.head.bias)
        return GroupLogits(logits[:, :classes], logits[:, classes:])


def _append_rows(old: nn.Parameter, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([old.data, rows]), requires_grad=old.requires_grad)
