"""The module of a head that is several heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.growth import check_prototypes


class ExpertsHead(nn.Module):
    """Heads whose mean logits, plain or weighted, are the answer.

    Args:
        experts: The heads.
        num_features: Width of what all of them get together.
        shared: All see the same features; else features are shared out in equal parts.
        weights: One per expert, up to a factor; none: all alike.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        *,
        num_features: int,
        shared: bool,
        weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.weights = tuple(weights)
        self.num_features = num_features
        self.experts, self.shared = nn.ModuleList(experts), shared

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean logits ``[B, C]``."""
        logits = self.each(features)
        return self.running_means(logits)[:, -1] if self.weights else logits.mean(dim=1)

    def running_means(self, logits: Tensor) -> Tensor:
        """Return the means of the first, the first two, ... of logits ``[B, E, C]``."""
        ones = [1.0] * logits.shape[1]
        weights = torch.tensor(self.weights or ones, device=logits.device, dtype=logits.dtype)
        # where the first ones count nothing, their mean is zero
        total = weights.cumsum(dim=0).clamp(min=torch.finfo(logits.dtype).tiny)
        return (weights[:, None] * logits).cumsum(dim=1) / total[:, None]

    def each(self, features: Tensor) -> Tensor:
        """Return every expert's logits ``[B, E, C]``."""
        pairs = zip(self.experts, self._parts(features), strict=True)
        return torch.stack([expert(part) for expert, part in pairs], dim=1)

    def _parts(self, features: Tensor) -> Sequence[Tensor]:
        count = len(self.experts)
        return [features] * count if self.shared else features.chunk(count, dim=1)

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes to every expert; see `trainables.modules.grow_head`."""
        from trainables.modules import grow_head

        if prototypes is not None:
            check_prototypes(prototypes, num_new, self.num_features)
        parts = [None] * len(self.experts) if prototypes is None else self._parts(prototypes)
        for expert, part in zip(self.experts, parts, strict=True):
            grow_head(expert, num_new, part, rescale=rescale, new_bias=new_bias)
