"""Several workers, one training: shares of a batch, averaged gradients, shared statistics.

The process group is made by whoever starts the workers; with one worker nothing here communicates.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from trainables.context import Context
from trainables.data.loader import Batch, Loader
from trainables.errors import ConfigError
from trainables.functional.class_weights import full_precision

Value = TypeVar("Value")


def share_of_batch(batch_size: int, context: Context, owner: str) -> int:
    """Return how many samples of a batch this worker computes.

    Raises:
        ConfigError: The batch can't be cut into equal shares.

    Example:
        >>> share_of_batch(128, Context(world_size=4), "classify")
        32
    """
    if batch_size % context.world_size:
        raise ConfigError(
            f"{owner}.training.batch_size must be a multiple of the {context.world_size} workers; "
            f"received {batch_size}"
        )
    return batch_size // context.world_size


def own_epoch(
    loader: Loader, positions: Tensor, order: torch.Generator, context: Context, *names: str | int
) -> Iterator[Batch]:
    """Yield this worker's share of an epoch whose order all workers drew alike.

    Args:
        loader: Made with the worker's share of a batch.
        positions: Order of the epoch.
        order: The generator that drew it; goes on with the augmentation if there is one worker,
            on a CPU.
        context: Device, rank and number of workers.
        names: What the augmentation is for; each worker draws its own, on its own device.
    """
    draws = order
    if context.world_size > 1 or context.device.type != "cpu":
        draws = context.own_generator(*names, device=str(context.device))
    return loader.epoch(
        positions=positions, generator=draws, rank=context.rank, world_size=context.world_size
    )


class LossModule(nn.Module):
    """A loss function as a module that holds what it trains, so that gradients can be averaged.

    A loss without a gradient, of a batch that was filtered to nothing, gets one of zeros: a worker
    that skipped a backward pass would pair its next gradient with the present one of the others.

    Args:
        batch_loss: ``(batch, progress) -> scalar``.
        modules: What it trains.
    """

    def __init__(
        self, batch_loss: Callable[[Any, float], Tensor], modules: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.batch_loss = batch_loss

    def forward(self, batch: Any, progress: float) -> Tensor:
        """Return the loss of a batch."""
        loss = self.batch_loss(batch, progress)
        if not loss.requires_grad:
            zeros = [0.0 * p.sum() for p in self.parameters() if p.requires_grad]
            loss = loss + torch.stack(zeros).sum()
        return loss


def data_parallel(loss: LossModule, context: Context) -> nn.Module:
    """Return the module; with several workers, one whose backward pass averages the gradients.

    All workers start from the weights of the first. Buffers are left alone during an epoch and
    averaged at its end (`average`): they are running means.
    """
    if context.world_size == 1:
        return loss
    wrapper = nn.parallel.DistributedDataParallel
    # torch 2.15 renamed the switch
    new = "forward_sync_buffers" in inspect.signature(wrapper).parameters
    switch: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    return wrapper(loss, **switch)


@torch.no_grad()
def average(tensors: Iterable[Tensor], context: Context) -> None:
    """Replace floating-point tensors by their mean over the workers, in place.

    In float64, in which the mean of equal float32 numbers is that number.
    """
    chosen = [tensor for tensor in tensors if tensor.is_floating_point()]
    if context.world_size == 1 or not chosen:
        return
    flat = torch.cat([tensor.detach().double().flatten() for tensor in chosen])
    torch.distributed.all_reduce(flat)
    flat /= context.world_size
    for tensor, part in zip(chosen, flat.split([t.numel() for t in chosen]), strict=True):
        tensor.copy_(part.view_as(tensor))


def shared(value: Value, context: Context) -> Value:
    """Return the first worker's value on all workers."""
    if context.world_size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=context.device)
    return box[0]


@torch.no_grad()
def share_state(module: nn.Module, context: Context) -> None:
    """Give all workers the first worker's weights and buffers, in place."""
    if context.world_size > 1:
        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)


def gathered(tensor: Tensor, context: Context) -> Tensor:
    """Return the rows of all workers, with a gradient to each: ``[B, ...] -> [W * B, ...]``.

    For losses that compare samples with each other. Every worker must have the same number of
    rows.
    """
    if context.world_size == 1:
        return tensor
    return cast(Tensor, _Gather.apply(tensor))


class _Gather(torch.autograd.Function):
    """Concatenate over workers; the gradient of a row is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, tensor.contiguous())
        ctx.rows = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        start = torch.distributed.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


class _Sum(torch.autograd.Function):
    """Sum over workers, and so is the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all workers' samples, on any device.

    `torch.nn.SyncBatchNorm` needs a GPU. Two passes (mean, then squared differences), because the
    difference of two large sums loses digits.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised maps ``[B, C, H, W]``."""
        distributed = torch.distributed.is_initialized()
        if not self.training or not distributed or self.running_mean is None:
            return super().forward(images)
        maps = full_precision(images)
        count = maps.numel() // maps.shape[1] * torch.distributed.get_world_size()
        mean = _Sum.apply(maps.sum((0, 2, 3))) / count
        centred = maps - mean[:, None, None]
        # the gradient through this mean is zero, but for rounding that many layers would amplify
        squares = (maps - mean.detach()[:, None, None]).square()
        variance = _Sum.apply(squares.sum((0, 2, 3))) / count
        self._observe(mean.detach(), variance.detach() * count / max(1, count - 1))
        normalized = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            normalized = normalized * self.weight[:, None, None] + self.bias[:, None, None]
        result: Tensor = normalized.to(images.dtype)
        return result

    @torch.no_grad()
    def _observe(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics."""
        counter = cast(Tensor, self.num_batches_tracked).add_(1)
        share = 1.0 / float(counter) if self.momentum is None else self.momentum
        for running, seen in ((self.running_mean, mean), (self.running_var, variance)):
            cast(Tensor, running).lerp_(seen.to(cast(Tensor, running)), share)


def synchronise_batchnorm(network: nn.Module, context: Context) -> None:
    """Let batch normalisation see the samples of all workers, in place; the state stays the same.

    Raises:
        ConfigError: A layer of the network has no synchronised form on this device.
    """
    if context.world_size == 1:
        return
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, _synchronised(layer, context))


def _synchronised(layer: nn.modules.batchnorm._BatchNorm, context: Context) -> nn.Module:
    """Return a layer that shares parameters and buffers with the given one."""
    if context.device.type == "cuda":
        if type(layer).__name__ == "BatchNormAct2d":  # timm's, with an activation inside
            from timm.layers import convert_sync_batchnorm

            return cast(nn.Module, convert_sync_batchnorm(layer))
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(layer))
    if type(layer) is not nn.BatchNorm2d and type(layer) is not GlobalBatchNorm2d:
        raise ConfigError(
            f"training.sync_batchnorm: {type(layer).__name__} has no synchronised form on "
            f"'{context.device.type}'; set it to false"
        )
    twin = GlobalBatchNorm2d.__new__(GlobalBatchNorm2d)
    twin.__dict__.update(layer.__dict__)
    return twin
