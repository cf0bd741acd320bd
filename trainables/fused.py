"""Equal networks side by side in common tensors: M small convolutions become one of M groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import batch_norm, conv2d


class NotFusedError(Exception):
    """Trainings can't go on together; the message says why. Each can go on alone."""


class Stack:
    """Equal modules whose parameters and buffers lie in common tensors, a slice for each.

    The modules stay what they are: their tensors become views of the common ones, so what is
    written in one place (a step of training, a checkpoint that is loaded) is there in both.

    Calling the stack computes all modules at once, each on its own inputs, in training mode:
    `torch.vmap` over the modules' common code, in which a convolution is one of M groups and a
    batch normalisation one of M times as many channels. Autocast holds for these two.

    Args:
        modules: Equal but for the values of their tensors, which are dense; on one device.

    Raises:
        NotFusedError: The modules differ in their tensors.

    Shapes:
        inputs ``[M, B, ...]`` -> outputs ``[M, B, ...]``; input m goes through module m.

    Source:
        Wang et al. 2021, "Horizontally Fused Training Array: An Effective Hardware Utilization
        Squeezer for Training Novel Deep Learning Models", arXiv:2102.02344.

    Example:
        >>> layers = [nn.Linear(2, 1), nn.Linear(2, 1)]
        >>> stack = Stack(layers)
        >>> inputs = torch.ones(2, 3, 2)
        >>> bool(torch.allclose(stack(inputs)[1], layers[1](inputs[1])))
        True
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.parameters = {
            name: nn.Parameter(_common(tensors), tensors[0].requires_grad)
            for name, tensors in _by_name([dict(m.named_parameters()) for m in modules]).items()
        }
        self.buffers = {
            name: _common(tensors)
            for name, tensors in _by_name([dict(m.named_buffers()) for m in modules]).items()
        }
        for number, module in enumerate(modules):
            _let_view(module, self.parameters, self.buffers, number)
        self._code = deepcopy(modules[0]).to("meta").train()
        self._code.apply(_leave_vmap)
        counted = (n for n, m in self._code.named_modules() if isinstance(m, _GroupedBatchNorm))
        self._counters = [
            self.buffers[".".join(filter(None, (name, "num_batches_tracked")))] for name in counted
        ]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all modules, and move their running statistics.

        Raises:
            RuntimeError: The modules' code can't run for all at once, or draws random numbers.
        """

        def one(tensors: dict[str, Tensor], own: Tensor) -> Tensor:
            output: Tensor = functional_call(self._code, tensors, (own,))
            return output

        outputs: Tensor = torch.vmap(one)({**self.parameters, **self.buffers}, inputs)
        if self._counters:
            torch._foreach_add_(self._counters, 1)
        return outputs


def lacking(module: nn.Module) -> str:
    """Return the name of a layer that has no grouped form, or nothing: all of them have.

    Example:
        >>> lacking(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.LayerNorm(4)))
        'LayerNorm'
    """
    for layer in module.modules():
        owned = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if owned and not _is_convolution(layer) and not _is_batchnorm(layer):
            return type(layer).__name__
    return ""


def side_by_side(images: Tensor, layout: torch.memory_format) -> Tensor:
    """Return ``[M, B, C, H, W]`` with the models next to each other in memory, image by image.

    So lie the maps of a grouped convolution, ``[B, M * C, H, W]``: none of them is copied then.
    """
    models = len(images)
    together = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=layout)
    maps: Tensor = together.unflatten(1, (models, -1))
    return maps.transpose(0, 1)


def _by_name(found: Sequence[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """Return the tensors of each name, one per module."""
    first = {name: (tensor.shape, tensor.dtype) for name, tensor in found[0].items()}
    for other in found[1:]:
        if {name: (tensor.shape, tensor.dtype) for name, tensor in other.items()} != first:
            raise NotFusedError("the models differ in shape")
    return {name: [own[name] for own in found] for name in first}


def _common(tensors: Sequence[Tensor]) -> Tensor:
    """Return a tensor ``[M, ...]`` whose slices have the values and strides of the given ones."""
    first = tensors[0].detach()
    shape, strides = (len(tensors), *first.shape), (first.numel(), *first.stride())
    common = torch.empty_strided(shape, strides, dtype=first.dtype, device=first.device)
    for own, tensor in zip(common, tensors, strict=True):
        own.copy_(tensor.detach())
    return common


def _let_view(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    number: int,
) -> None:
    """Let a module's tensors be views of slice ``number`` of the common ones.

    What it gives as its state are copies: a file of a view holds all that is behind it.
    """
    for name, parameter in module.named_parameters():
        parameter.data = parameters[name].data[number]
    for name, _ in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, buffers[name][number])
    module.register_state_dict_post_hook(_copy_state)


def _copy_state(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, value in state.items():
        if name.startswith(prefix):
            state[name] = value.clone()


def _is_convolution(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros"


def _is_batchnorm(layer: nn.Module) -> bool:
    if type(layer) is not nn.BatchNorm2d:
        return False
    return layer.affine and layer.track_running_stats and layer.momentum is not None


def _leave_vmap(layer: nn.Module) -> None:
    """Let a layer compute for all models in one call."""
    if _is_convolution(layer):
        layer.__class__ = _GroupedConv2d
    elif _is_batchnorm(layer):
        layer.__class__ = _GroupedBatchNorm


class _GroupedConv2d(nn.Conv2d):
    """A convolution that is one of M groups under vmap."""

    def forward(self, maps: Tensor) -> Tensor:
        settings = (self.stride, self.padding, self.dilation, self.groups)
        result: Tensor = _Convolve.apply(settings, maps, self.weight, self.bias)
        return result


class _GroupedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of all models' channels in one call; the stack counts the batches."""

    def forward(self, maps: Tensor) -> Tensor:
        running = (self.running_mean, self.running_var)
        settings = (self.momentum, self.eps)
        result: Tensor = _Normalise.apply(settings, maps, self.weight, self.bias, *running)
        return result


def _beside(maps: Tensor, place: int) -> Tensor:
    """Return ``[B, M * C, H, W]``; the models' axis is at ``place``."""
    return maps.movedim(place, 1).flatten(1, 2)


def _joined(tensors: Sequence[Tensor | None], places: Sequence[int | None]) -> list[Any]:
    """Return ``[M * C, ...]`` of each ``[M, C, ...]``, whose models' axis is at its place."""
    return [
        None if tensor is None else tensor.movedim(place or 0, 0).flatten(0, 1)
        for tensor, place in zip(tensors, places, strict=True)
    ]


class _OutsideOfVmap(torch.autograd.Function):
    """A call that gets the tensors of all models, and whose gradient is that of what it calls."""

    generate_vmap_rule = False

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: under vmap torch records what the call does."""


class _Convolve(_OutsideOfVmap):
    @staticmethod
    def forward(settings: Any, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(maps, weight, bias, *settings)

    @staticmethod
    def vmap(info: Any, places: Any, settings: Any, *tensors: Any) -> tuple[Tensor, int]:
        maps, models = _beside(tensors[0], places[1]), info.batch_size
        weight, bias = _joined(tensors[1:], places[2:])
        stride, padding, dilation, groups = settings
        result = conv2d(maps, weight, bias, stride, padding, dilation, groups * models)
        return result.unflatten(1, (models, -1)), 1


class _Normalise(_OutsideOfVmap):
    @staticmethod
    def forward(
        settings: Any, maps: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
    ) -> Tensor:
        return batch_norm(maps, mean, variance, weight, bias, True, *settings)

    @staticmethod
    def vmap(info: Any, places: Any, settings: Any, *tensors: Any) -> tuple[Tensor, int]:
        maps = _beside(tensors[0], places[1])
        weight, bias, mean, variance = _joined(tensors[1:], places[2:])
        result = batch_norm(maps, mean, variance, weight, bias, True, *settings)
        return result.unflatten(1, (info.batch_size, -1)), 1
