"""Head module that averages the logits of several heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.models.growth import check_prototypes, grow_head


class ExpertsHead(nn.Module):
    """Several heads, the experts, with plain or weighted mean logits.

    Args:
        experts: The heads.
        num_features: Width of the input features.
        shared: All experts get all features; otherwise each expert gets an equal part of them.
        weights: Weight of each expert, up to a factor; empty for equal weights.
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
        """Return the (weighted) running means over the experts' logits ``[B, E, C]``."""
        ones = [1.0] * logits.shape[1]
        weights = torch.tensor(self.weights or ones, device=logits.device, dtype=logits.dtype)
        # if the first weights are zero, their running mean is zero
        total = weights.cumsum(dim=0).clamp(min=torch.finfo(logits.dtype).tiny)
        return (weights[:, None] * logits).cumsum(dim=1) / total[:, None]

    def each(self, features: Tensor) -> Tensor:
        """Return the logits of each expert ``[B, E, C]``."""
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
        """Append classes to every expert; see `grow_head`."""
        if prototypes is not None:
            check_prototypes(prototypes, num_new, self.num_features)
        parts = [None] * len(self.experts) if prototypes is None else self._parts(prototypes)
        for expert, part in zip(self.experts, parts, strict=True):
            grow_head(expert, num_new, part, rescale=rescale, new_bias=new_bias)
