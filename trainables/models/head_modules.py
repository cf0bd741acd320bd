"""`nn.Module`s of the heads, each with ``grow`` to append new classes."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from trainables.functional.l2_normalize import l2_normalize
from trainables.models.growth import check_prototypes, grow_head, grow_rows


class LinearHead(nn.Linear):
    """Linear head: logits ``x @ W.T + b``, initialized as `torch.nn.Linear`.

    Args:
        num_features: D.
        num_classes: C.
        bias: Add ``b``.
        start: Initial value of every bias; ``None`` draws the biases as `torch.nn.Linear` does.
    """

    def __init__(
        self, num_features: int, num_classes: int, *, bias: bool = True, start: float | None = None
    ) -> None:
        super().__init__(num_features, num_classes, bias=bias)
        if start is not None and bias:
            nn.init.constant_(self.bias, start)

    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. By default a new bias is the mean of the old biases."""
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
        self.out_features += num_new
        # torch sets `bias` to None without a bias, but annotates it as a Parameter
        old = cast("nn.Parameter | None", self.bias)
        if old is not None:
            value = float(old.data.mean()) if new_bias is None and len(old) else new_bias or 0.0
            grown = torch.cat([old.data, old.data.new_full((num_new,), value)])
            self.bias = nn.Parameter(grown, requires_grad=old.requires_grad)


class CosineHead(nn.Module):
    """Cosine head: logits ``scale * cos(x, w_c)``, between ``-scale`` and ``scale``.

    Args:
        num_features: D.
        num_classes: C.
        scale: Factor of the cosine.
        learnable: Make the scale a parameter. A fixed scale is a setting, not part of the state, so
            loading weights does not change it.
    """

    scale: Tensor

    def __init__(
        self, num_features: int, num_classes: int, *, scale: float, learnable: bool = False
    ) -> None:
        super().__init__()
        start = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(nn.functional.normalize(start, dim=1))
        if learnable:
            self.scale = nn.Parameter(torch.tensor(float(scale)))
        else:
            self.register_buffer("scale", torch.tensor(float(scale)), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``; a zero feature vector has zero logits."""
        return self.scale * (l2_normalize(features) @ l2_normalize(self.weight).T)

    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. There is no bias: ``new_bias`` changes nothing."""
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)


class MLPHead(nn.Module):
    """MLP head: a hidden layer with ReLU and dropout, then a linear classifier.

    Args:
        num_features: D.
        num_classes: C.
        hidden: Width of the hidden layer.
        dropout: Dropout probability of the hidden units.
    """

    def __init__(
        self, num_features: int, num_classes: int, *, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = LinearHead(hidden, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``."""
        logits: Tensor = self.classifier(self.hidden(features))
        return logits

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. Prototypes are features ``[num_new, D]``."""
        first = cast(nn.Linear, self.hidden[0])
        if prototypes is not None:
            check_prototypes(prototypes, num_new, first.in_features)
            prototypes = torch.relu(first(prototypes.to(first.weight)))
        self.classifier.grow(num_new, prototypes, rescale=rescale, new_bias=new_bias)


class CausalNormHead(nn.Module):
    """Multi-head normalized classifier that can remove the effect of the mean feature.

    In ``train()`` mode each call updates ``mean_feature`` and returns
    ``(tau / H) sum_h x_h/|x_h| . w_h/(|w_h| + gamma)``. In ``eval()`` mode, ``alpha`` times the
    component along the mean feature is subtracted from ``x_h/|x_h|``. ``alpha`` is a plain
    attribute, which may be changed on a trained module.

    With several workers, the mean feature is that of rank 0, whose buffers
    DistributedDataParallel broadcasts.

    Args:
        num_features: D.
        num_classes: C.
        num_heads: H, a divisor of D.
        tau: Scale of the logits.
        gamma: Constant added to the norm of a class vector.
        alpha: Strength of the correction in ``eval()`` mode; 0 for none.
        momentum: Momentum of the moving average ``m <- momentum * m + mean(batch)``.

    Raises:
        ValueError: ``num_features`` is not a multiple of ``num_heads``.
    """

    mean_feature: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        num_heads: int = 2,
        tau: float = 16.0,
        gamma: float = 0.03125,
        alpha: float = 1.5,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        if num_features % num_heads:
            raise ValueError(
                f"heads/causal_norm.num_heads must divide the feature dimension {num_features}; "
                f"received {num_heads}"
            )
        self.num_heads, self.tau, self.gamma = num_heads, tau, gamma
        self.alpha, self.momentum = alpha, momentum
        bound = 1.0 / math.sqrt(num_features)
        self.weight = nn.Parameter(torch.empty(num_classes, num_features).uniform_(-bound, bound))
        self.register_buffer("mean_feature", torch.zeros(num_features))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``; before the first training step the correction is zero."""
        if self.training:
            self._observe(features.detach())
        parts = self._directions(features)
        if not self.training:
            mean = self._directions(self.mean_feature.to(features)[None])
            parts = parts - self.alpha * (parts * mean).sum(dim=2, keepdim=True) * mean
        weight = self.weight.reshape(len(self.weight), *parts.shape[1:])
        weight = weight / (weight.norm(dim=2, keepdim=True) + self.gamma)
        logits: Tensor = self.tau / self.num_heads * parts.flatten(1) @ weight.flatten(1).T
        return logits

    def _directions(self, values: Tensor) -> Tensor:
        """Split values into ``[B, H, D/H]`` and L2-normalize each part; zero stays zero."""
        parts = values.reshape(len(values), self.num_heads, values.shape[1] // self.num_heads)
        return l2_normalize(parts, dim=2)

    @torch.no_grad()
    def _observe(self, features: Tensor) -> None:
        """Update the mean feature; only its direction is used, so the batch has no factor."""
        if len(features):
            self.mean_feature.mul_(self.momentum).add_(features.to(self.mean_feature).mean(dim=0))

    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes; see `grow_head`. There is no bias: ``new_bias`` changes nothing."""
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)


class AlignedHead(nn.Module):
    """Scale and shift the logits of another head, weighted by a confidence of each sample.

    With logits z of the base head, ``sigma = sigmoid(v . x + c)`` and a scale and a shift per
    class, the logits are ``(1 + sigma scale) z + sigma shift`` if ``residual``, and
    ``sigma (scale z + shift) + (1 - sigma) z`` otherwise. The latter initially equal z.

    Args:
        base: The base head; not copied. A completely frozen base stays in evaluation mode, so that
            training sees the base logits of a prediction.
        num_features: D.
        num_classes: C.
        residual: Choose the residual form.
        start: Initial value of each entry of v.
    """

    def __init__(
        self, base: nn.Module, num_features: int, num_classes: int, *, residual: bool, start: float
    ) -> None:
        super().__init__()
        self.base, self.residual = base, residual
        self.scale = nn.Parameter(torch.ones(num_classes))
        self.shift = nn.Parameter(torch.zeros(num_classes))
        self.confidence = nn.Linear(num_features, 1)
        nn.init.constant_(self.confidence.weight, start)
        nn.init.zeros_(self.confidence.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``."""
        logits: Tensor = self.base(features)
        aligned = self.scale * logits + self.shift
        change = aligned if self.residual else aligned - logits
        return logits + torch.sigmoid(self.confidence(features)) * change

    def train(self, mode: bool = True) -> AlignedHead:
        """Set the mode; a frozen base stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.base.parameters()):
            self.base.eval()
        return self

    @torch.no_grad()
    def grow(
        self,
        num_new: int,
        prototypes: Tensor | None = None,
        *,
        rescale: bool = True,
        new_bias: float | None = None,
    ) -> None:
        """Append classes with the mean scale and shift of the old classes; see `grow_head`."""
        grow_head(self.base, num_new, prototypes, rescale=rescale, new_bias=new_bias)
        for name in ("scale", "shift"):
            old: nn.Parameter = getattr(self, name)
            grown = torch.cat([old.data, old.data.mean().expand(num_new)])
            setattr(self, name, nn.Parameter(grown, requires_grad=old.requires_grad))
