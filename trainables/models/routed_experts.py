"""Head module of experts in a sequence with gates that decide per sample where to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from trainables.models.experts import ExpertsHead


class Gates(nn.Module):
    """Gates behind all experts but the last; each decides whether a sample needs the next expert.

    Inputs of a gate are the K largest running mean logits and, through a hidden layer of this
    gate, the L2-normalized features of its expert. All gates share the output layer.

    Args:
        number: Number of gates G.
        width: Width D of an expert's features.
        top_choices: Number K of largest logits.
        hidden: Width of the hidden layers.
    """

    def __init__(self, number: int, *, width: int, top_choices: int, hidden: int) -> None:
        super().__init__()
        self.sizes = (top_choices, width)
        self.hidden = nn.ModuleList(nn.Linear(width, hidden) for _ in range(number))
        self.last = nn.Linear(hidden + top_choices, 1)
        for layer in (*self.hidden, self.last):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `gate_inputs` to ``[B, G]``, positive where a sample needs the next expert."""
        top, directions = inputs.split(self.sizes, dim=2)
        pairs = zip(self.hidden, directions.unbind(dim=1), strict=True)
        seen = torch.stack([layer(part).relu() for layer, part in pairs], dim=1)
        needed: Tensor = self.last(torch.cat([top, seen], dim=2))
        return needed.squeeze(2)


class RoutedExpertsHead(ExpertsHead):
    """Experts in a sequence; the logits are the mean over the experts that the gates request.

    In training mode the logits are the expectation over the gates' decisions, so that all
    parameters have a gradient. Gates ignore classes that are appended later.

    Args:
        experts: The heads.
        num_features: Width of the input features.
        shared: All experts get all features; otherwise each expert gets an equal part of them.
        weights: Weight of each expert, up to a factor; empty for equal weights.
        num_classes: C.
        top_choices: Number K of largest logits that a gate gets.
        hidden: Width of a gate's hidden layer.
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
        proceed = torch.sigmoid(needed) if self.training else (needed > 0).to(means)
        reached = _usage(proceed)
        stopped = reached - pad(reached[:, 1:], (0, 1))
        return (stopped[:, :, None] * means).sum(dim=1)

    @torch.no_grad()
    def experts_used(self, features: Tensor) -> Tensor:
        """Return the number of experts used for each sample ``[B]``, from 1 to all, int64."""
        means = self.running_means(self.each(features))
        needed = self.gates(self.gate_inputs(features, means))
        return _usage((needed > 0).long()).sum(dim=1)

    def gate_inputs(self, features: Tensor, means: Tensor) -> Tensor:
        """Return the inputs of each gate ``[B, G, K + D]``: largest logits, normalized features.

        With fewer than K classes, the missing logits are zero.
        """
        means, wanted = means[:, :-1], self.gates.sizes[0]
        number = torch.arange(means.shape[2], device=means.device)
        hidden = number >= self.gated_classes
        top = means.masked_fill(hidden, -torch.inf).topk(min(wanted, means.shape[2]), dim=2).values
        # topk sorts in descending order, so the masked classes come last
        top = top.masked_fill(hidden[: top.shape[2]], 0.0)
        parts = torch.stack(list(self._parts(features))[:-1], dim=1)
        directions = normalize(parts, dim=2)
        return torch.cat([pad(top, (0, wanted - top.shape[2])), directions.to(top)], dim=2)


def mean_experts_used(
    module: RoutedExpertsHead, features: Tensor, labels: Tensor, bands: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the mean number of experts used, over all samples and over those of each band.

    Args:
        module: The head.
        features: ``[N, D]``.
        labels: ``[N]`` int64.
        bands: Mask of classes ``[C]`` by band name; a band without samples is left out.
    """
    used = module.experts_used(features).double()
    groups = {"": labels >= 0, **{f"/{name}": own[labels] for name, own in bands.items()}}
    return {
        f"experts_used{name}": float(used[chosen].mean())
        for name, chosen in groups.items()
        if bool(chosen.any())
    }


def _usage(proceed: Tensor) -> Tensor:
    """Return whether (or the probability that) each expert is used ``[B, E]``, from ``[B, G]``."""
    return torch.cat([torch.ones_like(proceed[:, :1]), proceed.cumprod(dim=1)], dim=1)
