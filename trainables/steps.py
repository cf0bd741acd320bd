"""How a training step runs: call by call, with a compiled trunk, or replayed from a recording."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainables.context import Context
from trainables.experiment import Training
from trainables.optimizers import Optimizer
from trainables.recording import EAGERLY, CudaRecorder, Phase, RecordedStep, shape_of

logger = logging.getLogger(__name__)


class EagerStep:
    """One training step, call by call: loss, gradient, clipping, optimiser.

    Args:
        loss: ``(batch, progress) -> scalar``; of several models, one for each ``[M]``.
        optimizer: Its parameters are trained.
        training: ``gradient_clip``.
        dtype: ``torch.bfloat16`` computes under autocast with float32 weights.
    """

    kind = ""  # what the record calls such steps; the usual way has no name
    count = 0

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
        value.backward(torch.ones_like(value))
        if self.clip > 0:
            self._clip_gradients()
        self.optimizer.step()
        return value.detach()

    def _clip_gradients(self) -> None:
        """Scale the gradients so that all of them together are not longer than ``clip``."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)


class CompiledStep:
    """A training step whose trunk is compiled by torch, for batches of one shape.

    Batches of another shape, the last of an epoch, run call by call: compiling costs more. So does
    the trunk outside of the step.

    Args:
        eager: The step.
        trunk: Is part of the step's loss.
    """

    kind = "compiled"

    def __init__(self, eager: EagerStep, trunk: torch.nn.Module) -> None:
        self.eager, self.trunk, self.count = eager, trunk, 0
        self._compiled = torch.compile(trunk._call_impl, dynamic=False)
        self._shape: Hashable = None

    def __call__(self, batch: Any, progress: float) -> Tensor:
        """Change the parameters and return the loss."""
        shape = shape_of(batch)
        self._shape = self._shape or shape
        if shape != self._shape:
            return self.eager(batch, progress)
        self.count += 1
        self.trunk._compiled_call_impl = self._compiled  # what `torch.nn.Module.compile` sets
        try:
            return self.eager(batch, progress)
        finally:
            self.trunk._compiled_call_impl = None


Step = EagerStep | CompiledStep | RecordedStep


def counted(step: Step) -> dict[str, int]:
    """Return how many steps ran in a way of their own since the last call, by their metric."""
    if not step.kind:
        return {}
    count, step.count = step.count, 0
    return {f"steps_{step.kind}": count}


def make_step(
    eager: EagerStep,
    training: Training,
    *,
    phase: Phase | None,
    state: Sequence[Tensor],
    modules: Mapping[str, torch.nn.Module],
    context: Context,
    name: str,
) -> Step:
    """Return the step as ``training.step`` asks for it, as far as it can be had.

    Args:
        eager: The step.
        training: ``step``: ``auto`` and ``graph`` record on a CUDA device.
        phase: See `RecordedStep`; ``None`` is a step of which nothing is known.
        state: All tensors that a step changes, besides those of the optimiser.
        modules: What is trained; ``compiled`` compiles the ``trunk``.
        context: Device and number of workers.
        name: Of the training, for the log.
    """
    for group in eager.optimizer.param_groups:
        group["lr"] = float(group["lr"])  # that of a checkpoint may be a tensor
    wanted, on_cuda = training.step, context.device.type == "cuda"
    if wanted == "eager" or (wanted == "auto" and not on_cuda):
        return eager
    if context.world_size > 1:
        reason = "several workers average their gradients"
    elif phase is None or phase(0.0) is None:
        reason = "it changes with every step of the training, or draws on the CPU"
    elif wanted == "compiled" and "trunk" not in modules:
        reason = "there is no trunk to compile"
    elif wanted == "compiled":
        return CompiledStep(eager, modules["trunk"])
    elif not on_cuda:
        reason = f"there are no graphs on '{context.device.type}'"
    else:
        return RecordedStep(eager, phase, state, CudaRecorder(context.device), name)
    logger.info(EAGERLY, name, reason)
    return eager
