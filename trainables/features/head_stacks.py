"""Parameters of K heads of one kind, stacked along the last axis.

A stack implements the forward pass of its kind on cached features and the closed-form gradient.
Features that all heads normalize in the same way are normalized once, before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from trainables.features.head_training import ScaledLinear
from trainables.functional.l2_normalize import SHORTEST, l2_normalize
from trainables.models.head_modules import CausalNormHead, CosineHead, LinearHead, MLPHead


class HeadStack(Protocol):
    """Interface of K stacked heads for `train_heads`.

    ``parameters`` are contiguous tensors ``[..., K]``; ``slowed`` marks the parameters with the
    smaller learning rate of a job.
    """

    parameters: list[Tensor]
    slowed: tuple[bool, ...]

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, C, K]`` of the given rows of the features, in training mode."""
        ...

    def backward(self, rows: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> None:
        """Add the parameters' gradients to ``into``; call after `forward` of the same rows."""
        ...

    def select(self, places: Tensor) -> HeadStack:
        """Return a stack of the heads at ``places``."""
        ...

    def store(self, place: int, module: nn.Module) -> None:
        """Write one head's weights into its module."""
        ...


class LinearStack:
    """K linear heads, with one matrix product for all logits and one for all gradients.

    Args:
        inputs: ``[N, D]``.
        weight: ``[D, C, K]``.
        bias: ``[C, K]``, or ``None``.
    """

    def __init__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.inputs, self.parameters = inputs, [weight] if bias is None else [weight, bias]
        self.slowed: tuple[bool, ...] = (False,) * len(self.parameters)

    @classmethod
    def of(cls, modules: Sequence[nn.Module], inputs: Tensor) -> LinearStack:
        """Stack modules that `heads/linear` built."""
        heads = [cast(LinearHead, module) for module in modules]
        has_bias = cast("Tensor | None", heads[0].bias) is not None
        bias = torch.stack([head.bias.detach() for head in heads], -1) if has_bias else None
        return cls(inputs, _stack_weights([head.weight for head in heads]), bias)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, C, K]``."""
        weight, *bias = self.parameters
        flat, shape = weight.view(len(weight), -1), (len(rows), *weight.shape[1:])
        batch = self.inputs[rows]
        if bias:
            return torch.addmm(bias[0].view(-1), batch, flat).view(shape)
        return torch.mm(batch, flat).view(shape)

    def backward(self, rows: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> None:
        """Add the gradients of weight and bias."""
        _add_outer(into[0], self.inputs[rows], gradient)
        if len(into) > 1:
            into[1].add_(gradient.sum(0))

    def select(self, places: Tensor) -> LinearStack:
        """Return a stack of some of the heads."""
        weight, *bias = (_pick(parameter, places) for parameter in self.parameters)
        return LinearStack(self.inputs, weight, bias[0] if bias else None)

    def store(self, place: int, module: nn.Module) -> None:
        """Write one head's weights into its module."""
        head = cast(LinearHead, module)
        head.weight.data.copy_(self.parameters[0][..., place].T)
        if len(self.parameters) > 1:
            head.bias.data.copy_(self.parameters[1][..., place])


class FactorStack:
    """K sets of class factors on one frozen linear head, whose logits are computed once.

    Args:
        logits: Logits of the frozen head ``[N, C]``.
        factor: ``[C, K]``.
    """

    slowed: tuple[bool, ...] = (False,)

    def __init__(self, logits: Tensor, factor: Tensor) -> None:
        self.logits, self.parameters = logits, [factor]

    @classmethod
    def of(cls, modules: Sequence[nn.Module], inputs: Tensor) -> FactorStack:
        """Stack `ScaledLinear` modules over equal linear heads."""
        heads = [cast(ScaledLinear, module) for module in modules]
        with torch.no_grad():
            logits = heads[0].linear(inputs)
        return cls(logits, torch.stack([head.scale.detach() for head in heads], -1))

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, C, K]``."""
        return self.logits[rows][:, :, None] * self.parameters[0]

    def backward(self, rows: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> None:
        """Add the gradient of the factors."""
        into[0].add_((self.logits[rows][:, :, None] * gradient).sum(0))

    def select(self, places: Tensor) -> FactorStack:
        """Return a stack of some of the heads."""
        return FactorStack(self.logits, _pick(self.parameters[0], places))

    def store(self, place: int, module: nn.Module) -> None:
        """Write one head's factors into its module."""
        cast(ScaledLinear, module).scale.data.copy_(self.parameters[0][..., place])


class ScaledStack:
    """K linear heads with class factors, trained together.

    Args:
        linear: The heads.
        factor: ``[C, K]``.
    """

    def __init__(self, linear: LinearStack, factor: Tensor) -> None:
        self.linear = linear
        self.parameters = [*linear.parameters, factor]
        self.slowed = (*(True for _ in linear.parameters), False)
        self._plain = factor  # logits without factors, saved by forward for backward

    @classmethod
    def of(cls, modules: Sequence[nn.Module], inputs: Tensor) -> ScaledStack:
        """Stack `ScaledLinear` modules."""
        heads = [cast(ScaledLinear, module) for module in modules]
        linear = LinearStack.of([head.linear for head in heads], inputs)
        return cls(linear, torch.stack([head.scale.detach() for head in heads], -1))

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, C, K]``."""
        self._plain = self.linear.forward(rows)
        return self._plain * self.parameters[-1]

    def backward(self, rows: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> None:
        """Add the gradients of weight, bias and factors."""
        into[-1].add_((self._plain.mul_(gradient)).sum(0))
        self.linear.backward(rows, gradient.mul_(self.parameters[-1]), into[:-1])

    def select(self, places: Tensor) -> ScaledStack:
        """Return a stack of some of the heads."""
        return ScaledStack(self.linear.select(places), _pick(self.parameters[-1], places))

    def store(self, place: int, module: nn.Module) -> None:
        """Write one head's weights into its module."""
        head = cast(ScaledLinear, module)
        self.linear.store(place, head.linear)
        head.scale.data.copy_(self.parameters[-1][..., place])


class CosineStack:
    """K cosine heads; features are normalized once, class vectors at every step.

    Args:
        directions: L2-normalized features ``[N, D]``.
        weight: ``[D, C, K]``.
        scale: ``[K]``.
        learnable: Train the scales.
    """

    def __init__(
        self, directions: Tensor, weight: Tensor, scale: Tensor, *, learnable: bool
    ) -> None:
        self.directions, self.scale, self.learnable = directions, scale, learnable
        self.parameters = [weight, scale] if learnable else [weight]
        self.slowed = (False,) * len(self.parameters)
        self._cosines = self._unit = self._length = scale  # saved by forward for backward

    @classmethod
    def of(cls, modules: Sequence[nn.Module], inputs: Tensor) -> CosineStack:
        """Stack modules that `heads/cosine` built."""
        heads = [cast(CosineHead, module) for module in modules]
        scale = torch.stack([head.scale.detach() for head in heads])
        learnable = isinstance(heads[0].scale, nn.Parameter)
        weight = _stack_weights([head.weight for head in heads])
        return cls(l2_normalize(inputs), weight, scale, learnable=learnable)

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, C, K]``."""
        weight = self.parameters[0]
        self._length = weight.norm(dim=0)
        self._unit = weight / self._length.clamp(min=SHORTEST)
        shape = (len(rows), *weight.shape[1:])
        flat = self._unit.view(len(weight), -1)
        self._cosines = torch.mm(self.directions[rows], flat).view(shape)
        return self._cosines * self.scale

    def backward(self, rows: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> None:
        """Add the gradients of the class vectors and, if learnable, the scales."""
        if self.learnable:
            into[1].add_(self._cosines.mul_(gradient).sum((0, 1)))
        slope = torch.zeros_like(self._unit)
        _add_outer(slope, self.directions[rows], gradient.mul_(self.scale))
        # l2_normalize divides a shorter vector by a constant, which has no gradient
        along = (slope * self._unit).sum(0) * (self._length > SHORTEST)
        slope.addcmul_(self._unit, along, value=-1)
        into[0].addcdiv_(slope, self._length.clamp(min=SHORTEST))

    def select(self, places: Tensor) -> CosineStack:
        """Return a stack of some of the heads."""
        weight, scale = _pick(self.parameters[0], places), _pick(self.scale, places)
        return CosineStack(self.directions, weight, scale, learnable=self.learnable)

    def store(self, place: int, module: nn.Module) -> None:
        """Write one head's weights into its module."""
        head = cast(CosineHead, module)
        head.weight.data.copy_(self.parameters[0][..., place].T)
        if self.learnable:
            head.scale.data.copy_(self.scale[place])


class CausalNormStack:
    """K multi-head normalized classifiers with a common moving mean of the features.

    Args:
        inputs: ``[N, D]``.
        directions: Inputs with every block L2-normalized.
        weight: ``[D, C, K]``.
        mean: Moving mean ``[D]``, updated by every `forward`.
        head: One of the modules; all have the same blocks, scale, gamma and momentum.
    """

    slowed: tuple[bool, ...] = (False,)

    def __init__(
        self,
        inputs: Tensor,
        directions: Tensor,
        weight: Tensor,
        mean: Tensor,
        head: CausalNormHead,
    ) -> None:
        self.inputs, self.directions = inputs, directions
        self.mean, self.head, self.blocks = mean, head, head.num_heads
        self.parameters = [weight]
        self._unit = self._length = weight  # saved by forward for backward

    @classmethod
    def of(cls, modules: Sequence[nn.Module], inputs: Tensor) -> CausalNormStack:
        """Stack modules that `heads/causal_norm` built with equal settings."""
        heads = [cast(CausalNormHead, module) for module in modules]
        parts = inputs.reshape(len(inputs), heads[0].num_heads, -1)
        unit = l2_normalize(parts, dim=2).flatten(1)
        weight = _stack_weights([head.weight for head in heads])
        return cls(inputs, unit, weight, heads[0].mean_feature.clone(), heads[0])

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, C, K]`` and update the mean feature."""
        weight, head = self.parameters[0], self.head
        if len(rows):
            self.mean.mul_(head.momentum).add_(self.inputs[rows].mean(0))
        parts = weight.view(self.blocks, -1, *weight.shape[1:])
        self._length = parts.norm(dim=1, keepdim=True)
        self._unit = parts / (self._length + head.gamma)
        flat = self._unit.view(len(weight), -1) * (head.tau / self.blocks)
        return torch.mm(self.directions[rows], flat).view(len(rows), *weight.shape[1:])

    def backward(self, rows: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> None:
        """Add the gradient of the class vectors."""
        slope = torch.zeros_like(self.parameters[0])
        _add_outer(slope, self.directions[rows], gradient.mul_(self.head.tau / self.blocks))
        slope = slope.view(self._unit.shape)
        # gradient of w / (|w| + gamma); the term along w is zero for a zero vector
        along = (slope * self._unit).sum(1, keepdim=True)
        along = torch.where(self._length > 0, along / self._length, torch.zeros_like(along))
        slope = slope / (self._length + self.head.gamma)
        parts = self.parameters[0].view(self._unit.shape)
        slope.addcdiv_(parts * along, self._length + self.head.gamma, value=-1)
        into[0].add_(slope.view(into[0].shape))

    def select(self, places: Tensor) -> CausalNormStack:
        """Return a stack of some of the heads."""
        weight = _pick(self.parameters[0], places)
        return CausalNormStack(self.inputs, self.directions, weight, self.mean.clone(), self.head)

    def store(self, place: int, module: nn.Module) -> None:
        """Write one head's weights into its module."""
        head = cast(CausalNormHead, module)
        head.weight.data.copy_(self.parameters[0][..., place].T)
        head.mean_feature.copy_(self.mean)


class MLPStack:
    """K heads with a hidden layer; the second layer is a batched matrix product.

    Args:
        inputs: ``[N, D]``.
        parameters: First weight ``[D, H, K]`` and bias ``[H, K]``, second weight ``[H, C, K]`` and
            bias ``[C, K]``.
    """

    slowed: tuple[bool, ...] = (False,) * 4

    def __init__(self, inputs: Tensor, parameters: Sequence[Tensor]) -> None:
        self.inputs, self.parameters = inputs, list(parameters)
        self._hidden = inputs  # [K, B, H], saved by forward for backward

    @classmethod
    def of(cls, modules: Sequence[nn.Module], inputs: Tensor) -> MLPStack:
        """Stack modules that `heads/mlp` built without dropout."""
        heads = [cast(MLPHead, module) for module in modules]
        first = LinearStack.of([head.hidden[0] for head in heads], inputs)
        second = LinearStack.of([head.classifier for head in heads], inputs)
        return cls(inputs, [*first.parameters, *second.parameters])

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[B, C, K]``."""
        inner, offset, outer, bias = self.parameters
        before = torch.addmm(offset.view(-1), self.inputs[rows], inner.view(len(inner), -1))
        hidden = before.relu_().view(len(rows), *offset.shape)
        self._hidden = hidden.permute(2, 0, 1).contiguous()
        logits = torch.bmm(self._hidden, outer.permute(2, 0, 1))
        return logits.permute(1, 2, 0).add(bias).contiguous()

    def backward(self, rows: Tensor, gradient: Tensor, into: Sequence[Tensor]) -> None:
        """Add the gradients of both layers."""
        outer = self.parameters[2]
        by_head = gradient.permute(2, 0, 1).contiguous()
        into[2].add_(torch.bmm(self._hidden.transpose(1, 2), by_head).permute(1, 2, 0))
        into[3].add_(gradient.sum(0))
        back = torch.bmm(by_head, outer.permute(2, 1, 0)).mul_(self._hidden > 0)
        back = back.permute(1, 2, 0).contiguous()
        _add_outer(into[0], self.inputs[rows], back)
        into[1].add_(back.sum(0))

    def select(self, places: Tensor) -> MLPStack:
        """Return a stack of some of the heads."""
        return MLPStack(self.inputs, [_pick(p, places) for p in self.parameters])

    def store(self, place: int, module: nn.Module) -> None:
        """Write one head's weights into its module."""
        head = cast(MLPHead, module)
        LinearStack(self.inputs, *self.parameters[:2]).store(place, head.hidden[0])
        LinearStack(self.inputs, *self.parameters[2:]).store(place, head.classifier)


def _stack_weights(weights: Sequence[Tensor]) -> Tensor:
    """Stack weights ``[C, D]`` of K heads to ``[D, C, K]``."""
    return torch.stack([weight.detach().T for weight in weights], -1).contiguous()


def _pick(parameter: Tensor, places: Tensor) -> Tensor:
    """Return the heads at ``places`` of a parameter ``[..., K]``, contiguous."""
    return parameter.index_select(-1, places)


def _add_outer(into: Tensor, inputs: Tensor, gradient: Tensor) -> None:
    """Add ``inputs^T gradient`` to ``into [D, C, K]`` by one product for all heads."""
    into.view(len(into), -1).addmm_(inputs.T, gradient.view(len(gradient), -1))
