"""The module of experts that are asked one after the other, until a gate says that it is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from trainables.experts import ExpertsHead


class Gates(nn.Module):
    """One gate behind every expert but the last: does the sample need the next one?

    A gate sees the largest of the mean logits so far and, through a small layer of its own, the
    direction of its expert's features; the last layer is the same for all.

    Args:
        number: Gates G.
        width: D of an expert's features.
        top_choices: K largest logits.
        hidden: Width of the small layers.
    """

    def __init__(self, number: int, *, width: int, top_choices: int, hidden: int) -> None:
        super().__init__()
        self.sizes = (top_choices, width)
        self.hidden = nn.ModuleList(nn.Linear(width, hidden) for _ in range(number))
        self.last = nn.Linear(hidden + top_choices, 1)
        for layer in (*self.hidden, self.last):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[B, G]``, positive where the next expert is needed, of `gate_inputs`."""
        top, directions = inputs.split(self.sizes, dim=2)
        pairs = zip(self.hidden, directions.unbind(dim=1), strict=True)
        seen = torch.stack([layer(part).relu() for layer, part in pairs], dim=1)
        needed: Tensor = self.last(torch.cat([top, seen], dim=2))
        return needed.squeeze(2)


class RoutedExpertsHead(ExpertsHead):
    """Experts in a row: the mean logits of as many as the gates ask for are the answer.

    In training it is the mean over the gates' decisions, each taken with its probability, so that
    all parts have a gradient. Classes that are appended later are hidden from the gates.

    Args:
        experts: The heads.
        num_features: Width of what all of them get together.
        shared: All see the same features; else features are shared out in equal parts.
        weights: One per expert, up to a factor; none: all alike.
        num_classes: C.
        top_choices: K largest logits that a gate sees.
        hidden: Width of a gate's own layer.
    """

    gated_classes: Tensor

    def __init__(
        self,
        experts: Sequence[nn.Module],
        *,
        num_features: int,
        shared: bool,
        weights: Sequence[float],
        num_classes: int,
        top_choices: int,
        hidden: int,
    ) -> None:
        super().__init__(experts, num_features=num_features, shared=shared, weights=weights)
        width = num_features if shared else num_features // len(experts)
        self.gates = Gates(len(experts) - 1, width=width, top_choices=top_choices, hidden=hidden)
        self.register_buffer("gated_classes", torch.tensor(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """Return the routed logits ``[B, C]``."""
        means = self.running_means(self.each(features))
        needed = self.gates(self.gate_inputs(features, means))
        go_on = torch.sigmoid(needed) if self.training else (needed > 0).to(means)
        reached = _reached(go_on)
        stopped = reached - pad(reached[:, 1:], (0, 1))
        return (stopped[:, :, None] * means).sum(dim=1)

    @torch.no_grad()
    def experts_used(self, features: Tensor) -> Tensor:
        """Return how many experts answer each sample ``[B]``, from 1 to all, int64."""
        means = self.running_means(self.each(features))
        needed = self.gates(self.gate_inputs(features, means))
        return _reached((needed > 0).long()).sum(dim=1)

    def gate_inputs(self, features: Tensor, means: Tensor) -> Tensor:
        """Return what each gate sees ``[B, G, K + D]``: largest logits, direction of features.

        Places without a class, where there are fewer than K, are zero.
        """
        means, wanted = means[:, :-1], self.gates.sizes[0]
        number = torch.arange(means.shape[2], device=means.device)
        hidden = number >= self.gated_classes
        top = means.masked_fill(hidden, -torch.inf).topk(min(wanted, means.shape[2]), dim=2).values
        # the order is by size: the hidden classes stand at the end
        top = top.masked_fill(hidden[: top.shape[2]], 0.0)
        parts = torch.stack(list(self._parts(features))[:-1], dim=1)
        directions = normalize(parts, dim=2)
        return torch.cat([pad(top, (0, wanted - top.shape[2])), directions.to(top)], dim=2)


def mean_experts_used(
    module: RoutedExpertsHead, features: Tensor, labels: Tensor, bands: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return how many experts answer a sample on average: all samples, and those of a band.

    Args:
        module: The head.
        features: ``[N, D]``.
        labels: ``[N]`` int64.
        bands: Which classes ``[C]`` a band has, by name; one without a sample is left out.
    """
    used = module.experts_used(features).double()
    groups = {"": labels >= 0, **{f"/{name}": own[labels] for name, own in bands.items()}}
    return {
        f"experts_used{name}": float(used[chosen].mean())
        for name, chosen in groups.items()
        if bool(chosen.any())
    }


def _reached(go_on: Tensor) -> Tensor:
    """Return whether (or how probably) each expert is asked ``[B, E]``, from gates ``[B, G]``."""
    return torch.cat([torch.ones_like(go_on[:, :1]), go_on.cumprod(dim=1)], dim=1)
