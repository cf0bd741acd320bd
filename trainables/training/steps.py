"""A training step: call by call, or with a trunk that torch compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context
from trainables.training.classify_settings import Training
from trainables.training.optimizers import Optimizer

logger = logging.getLogger(__name__)


class EagerStep:
    """One training step, call by call: loss, gradient, clipping, optimizer.

    Args:
        loss: ``(batch, progress) -> scalar``.
        optimizer: Its parameters are trained.
        training: ``gradient_clip``.
        dtype: ``torch.bfloat16`` computes under autocast with float32 weights.
    """

    def __init__(
        self,
        loss: Callable[[Any, float], Tensor],
        optimizer: Optimizer,
        training: Training,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.loss, self.optimizer, self.dtype = loss, optimizer, dtype
        self.clip = training.gradient_clip
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device

    def __call__(self, batch: Any, progress: float) -> Tensor:
        """Change the parameters and return the loss; nothing waits for the device."""
        with torch.autocast(self.device.type, torch.bfloat16, self.dtype is torch.bfloat16):
            value = self.loss(batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.clip > 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        return value.detach()


class CompiledStep:
    """A training step whose trunk is compiled by torch, for batches of one shape.

    Batches of another shape, the last of an epoch, run call by call: compiling costs more. So does
    the trunk outside of the step. ``count`` is the number of compiled steps.

    Args:
        eager: The step.
        trunk: Called as a whole by the step's loss.
    """

    def __init__(self, eager: EagerStep, trunk: torch.nn.Module) -> None:
        self.eager, self.trunk, self.count = eager, trunk, 0
        self._compiled = torch.compile(trunk._call_impl, dynamic=False)
        self._shapes: object = None

    def __call__(self, batch: Any, progress: float) -> Tensor:
        """Change the parameters and return the loss."""
        shapes = _shapes(batch)
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            return self.eager(batch, progress)
        self.count += 1
        self.trunk._compiled_call_impl = self._compiled  # what `torch.nn.Module.compile` sets
        try:
            return self.eager(batch, progress)
        finally:
            self.trunk._compiled_call_impl = None


Step = EagerStep | CompiledStep


def make_step(
    eager: EagerStep,
    training: Training,
    trunk: torch.nn.Module | None,
    *,
    context: Context,
    name: str,
) -> Step:
    """Return the step that ``training.step`` asks for; the log says why another one runs.

    Args:
        eager: The step.
        training: ``step``.
        trunk: What ``compiled`` compiles, if the step calls it as a whole.
        context: Rank and number of workers.
        name: Of the training, for the log.
    """
    if training.step in ("auto", "eager"):
        return eager
    if training.step == "graph":
        reason = "CUDA graphs were removed, see docs/machines_and_gpus.md"
    elif context.world_size > 1:
        reason = "several workers average their gradients"
    elif trunk is None:
        reason = "it calls no trunk as a whole, which could be compiled"
    else:
        return CompiledStep(eager, trunk)
    if context.rank == 0:
        logger.warning("%s: training.step '%s' runs eagerly: %s", name, training.step, reason)
    return eager


def _shapes(batch: Any) -> object:
    """Return the shapes of a batch's tensors, nested as they are."""
    if isinstance(batch, Tensor):
        return batch.shape
    return tuple(map(_shapes, batch)) if isinstance(batch, tuple) else None
