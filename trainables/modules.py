"""The modules that heads build. All of them can grow by new classes without changing old ones."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from trainables.directions import directions
from trainables.experts import ExpertsHead
from trainables.group_softmax import GroupSoftmaxHead
from trainables.growth import check_prototypes, grow_rows
from trainables.nearest_mean import NearestMeanHead


class LinearHead(nn.Linear):
    """Logits ``x @ W.T + b``, initialised as `torch.nn.Linear`.

    Args:
        num_features: D.
        num_classes: C.
        bias: Add ``b``.
        start: First value of every bias; ``None`` draws it as `torch.nn.Linear` does.
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
        """Append classes; see `grow_head`. A new bias is the mean of the old ones if not given."""
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)
        self.out_features += num_new
        # Assigned to None by torch where there is no bias; the annotation there does not say so.
        old = cast("nn.Parameter | None", self.bias)
        if old is not None:
            value = float(old.data.mean()) if new_bias is None and len(old) else new_bias or 0.0
            grown = torch.cat([old.data, old.data.new_full((num_new,), value)])
            self.bias = nn.Parameter(grown, requires_grad=old.requires_grad)


class CosineHead(nn.Module):
    """Logits ``scale * cos(x, w_c)``, between ``-scale`` and ``scale``.

    Args:
        num_features: D.
        num_classes: C.
        scale: Factor on the cosine.
        learnable: Make the scale a parameter. A fixed one is not part of the state: it is a
            setting of the head, and stays what the setting says when weights are loaded.
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
        """Return logits ``[B, C]``; a zero feature has logits zero."""
        return self.scale * (directions(features) @ directions(self.weight).T)

    def grow(self, num_new: int, prototypes: Tensor | None = None, *, rescale: bool = True) -> None:
        """Append classes; see `grow_head`."""
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)


class MLPHead(nn.Module):
    """A hidden layer with ReLU, then a linear classifier.

    Args:
        num_features: D.
        num_classes: C.
        hidden: Width of the hidden layer.
        dropout: Share of hidden units that are dropped in training.
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
    """Multi-head normalised classifier that can remove the effect of the mean feature.

    In ``train()`` mode every call moves ``mean_feature`` and gives
    ``(tau / H) sum_h x_h/|x_h| . w_h/(|w_h| + gamma)``. In ``eval()`` mode ``x_h/|x_h|`` loses
    ``alpha`` times its component along the mean feature. ``alpha`` is a plain attribute: change it
    on a trained module at will.

    Several workers each see their own batches: DistributedDataParallel broadcasts the buffer of
    rank 0, so all ranks agree on it.

    Args:
        num_features: D.
        num_classes: C.
        num_heads: H, a divisor of D.
        tau: Scale of the logits.
        gamma: Added to the length of a class vector.
        alpha: Strength of the correction in ``eval()`` mode; 0 is none.
        momentum: Of the moving average, ``m <- momentum * m + mean(batch)``.

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
        """Return logits ``[B, C]``; before the first training step nothing is removed."""
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
        """Return ``[B, H, D/H]``, every head's part with length one, or zero where it is zero."""
        parts = values.reshape(len(values), self.num_heads, values.shape[1] // self.num_heads)
        return directions(parts, dim=2)

    @torch.no_grad()
    def _observe(self, features: Tensor) -> None:
        """Move the mean feature. Only its direction matters, hence no factor on the batch."""
        if len(features):
            self.mean_feature.mul_(self.momentum).add_(features.to(self.mean_feature).mean(dim=0))

    def grow(self, num_new: int, prototypes: Tensor | None = None, *, rescale: bool = True) -> None:
        """Append classes; see `grow_head`."""
        self.weight = grow_rows(self.weight, num_new, prototypes, rescale=rescale)


class AlignedHead(nn.Module):
    """Another head, whose logits are scaled and shifted as far as the sample asks for it.

    With logits z of the base head, ``sigma = sigmoid(v . x + c)``, a scale and a shift per class:
    ``residual``: ``(1 + sigma scale) z + sigma shift``; otherwise
    ``sigma (scale z + shift) + (1 - sigma) z``, which starts as the base head itself.

    Args:
        base: The head; used as it is, not copied. Where all of it is frozen it stays in
            evaluation mode, so that what trains on top sees the logits of a prediction.
        num_features: D.
        num_classes: C.
        residual: Which of the two forms.
        start: First value of every entry of v.
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
        """Append classes, aligned as the old ones are on average; see `grow_head`."""
        grow_head(self.base, num_new, prototypes, rescale=rescale, new_bias=new_bias)
        for name in ("scale", "shift"):
            old: nn.Parameter = getattr(self, name)
            grown = torch.cat([old.data, old.data.mean().expand(num_new)])
            setattr(self, name, nn.Parameter(grown, requires_grad=old.requires_grad))


def grow_head(
    module: nn.Module,
    num_new: int,
    prototypes: Tensor | None = None,
    *,
    rescale: bool = True,
    new_bias: float | None = None,
) -> nn.Module:
    """Append ``num_new`` classes to a head, in place, and return it.

    The parameters are new objects: build the optimizer afterwards.

    Args:
        module: A module that a `Head` built.
        num_new: How many classes to append.
        prototypes: Directions of the new rows ``[num_new, D]``, e.g. cluster means of features.
        rescale: See `grow_rows`.
        new_bias: Bias of the new classes, for heads that have one; ``None`` takes the mean of the
            old ones. One less than the smallest old bias keeps new classes out of the way at first
            (AutoNovel).

    Raises:
        TypeError: The module cannot grow.
        ValueError: A shape does not fit; see `grow_rows`.

    Example:
        >>> grown = grow_head(LinearHead(2, 3), 1, torch.ones(1, 2))
        >>> grown(torch.ones(5, 2)).shape
        torch.Size([5, 4])
    """
    if isinstance(module, LinearHead | MLPHead | AlignedHead | GroupSoftmaxHead | ExpertsHead):
        module.grow(num_new, prototypes, rescale=rescale, new_bias=new_bias)
    elif isinstance(module, CosineHead | CausalNormHead | NearestMeanHead):
        module.grow(num_new, prototypes, rescale=rescale)
    else:
        raise TypeError(f"{type(module).__name__} is no head that can grow")
    return module
