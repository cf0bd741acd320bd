"""The training loop for several equal models at once; see `trainables.loop.fit` for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.checkpoints import Checkpoints, Parts
from trainables.context import Context
from trainables.distributed import LossModule
from trainables.experiment import Training
from trainables.fused import NotFusedError
from trainables.loop import Batch, Group, NonFiniteLossError, make_optimizer, measured, train_epoch
from trainables.optimizers import Optimizer
from trainables.recording import Phase
from trainables.steps import EagerStep, counted, make_step

Reports = list[dict[str, float]]


class FusedStep(EagerStep):
    """A training step of several models; each model's gradient is clipped by its own length."""

    def _clip_gradients(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        lengths = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients])
        factors = (self.clip / (lengths.norm(dim=0) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))


class Member(NamedTuple):
    """One of the trainings: what it changes, as slices of common tensors, and where it reports."""

    modules: Mapping[str, nn.Module]
    averages: Mapping[str, Tensor]
    context: Context


class OptimizerSlice:
    """One model's part of an optimiser of ``[M, ...]`` parameters, as a checkpoint wants it.

    Its state is that of the optimiser of a training alone, so that either can go on from it.
    """

    def __init__(self, optimizer: Optimizer, number: int) -> None:
        self.optimizer, self.number = optimizer, number
        self.param_groups = optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all models."""
        self.optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """Change the parameters of all models."""
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return this model's velocities, and the learning rates."""
        state = self.optimizer.state_dict()
        own = {name: v[self.number].clone() for name, v in state["velocity"].items()}
        return {**state, "velocity": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, for this model."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        common = self.optimizer.state_dict()["velocity"]
        for name, velocity in state_dict["velocity"].items():
            if name not in common:
                common[name] = torch.zeros_like(parameters[int(name)])
            common[name][self.number].copy_(velocity)
        self.optimizer.load_state_dict({**state_dict, "velocity": common})


class Fleet(NamedTuple):
    """M trainings side by side.

    Args:
        members: Each by itself.
        parameters: Common tensors ``[M, ...]``, in the order of each model's own.
        running: Running statistics of all models, which a step changes.
    """

    members: Sequence[Member]
    parameters: Sequence[nn.Parameter]
    running: Sequence[Tensor]


def fit_together(
    fleet: Fleet,
    *,
    epoch_batches: Callable[[int], Iterable[Batch]],
    steps_per_epoch: Callable[[int], int],
    batch_losses: Callable[[Batch, float], Tensor],
    training: Training,
    stage: str,
    dtype: torch.dtype,
    after_epoch: Callable[[int, int], dict[str, float]],
    phase: Phase,
) -> list[Reports | NonFiniteLossError]:
    """Train M models at once, each as `trainables.loop.fit` trains it alone, up to rounding.

    Each reports, and is saved, by itself: its checkpoints are those of a training alone. Trainings
    that were interrupted go on together if all were saved after the same epoch. A model whose loss
    is not finite drops out, with its error in place of its reports; the others go on.

    ``stage/steps_fused`` counts the steps that were done together.

    Args:
        fleet: What is trained.
        epoch_batches: Gives the batches of an epoch (from 0), of all models.
        steps_per_epoch: Batches of an epoch, the same for all.
        batch_losses: ``(batch, progress) -> [M]``.
        training: Optimiser (``sgd``), schedule, epochs.
        stage: Prefix of the metric names.
        dtype: ``torch.bfloat16`` computes under autocast with float32 weights.
        after_epoch: Called with a model's number and the epoch; metrics to report with it.
        phase: See `trainables.recording.RecordedStep`.

    Raises:
        NotFusedError: The trainings were interrupted after different epochs.
    """
    optimizer = make_optimizer(training, [Group(list(fleet.parameters))])
    courses = _Courses(fleet.members, optimizer, stage)
    done = courses.restore()
    loss = LossModule(batch_losses, [nn.ParameterList(fleet.parameters)])
    step = make_step(
        FusedStep(loss, optimizer, training, dtype),
        training,
        phase=phase,
        state=[*fleet.parameters, *fleet.running],
        modules={},
        context=fleet.members[0].context,
        name=f"{stage}, {len(fleet.members)} models",
    )
    for epoch in range(done, training.until or training.epochs):
        steps = steps_per_epoch(epoch)
        losses = train_epoch(step, epoch_batches(epoch), optimizer, training, epoch, steps)
        courses.note(losses, {"steps_fused": len(losses), **counted(step)}, after_epoch)
        if not courses.going:
            break
        courses.save_if_due(at_once=epoch + 1 == training.until)
        courses.report()
    return [courses.failed.get(number, own) for number, own in enumerate(courses.reports)]


class _Courses:
    """How each of the trainings went so far: its reports, its checkpoints, or its error."""

    def __init__(self, members: Sequence[Member], optimizer: Optimizer, stage: str) -> None:
        self.members, self.optimizer, self.stage = members, optimizer, stage
        parts = [
            Parts(own.modules, OptimizerSlice(optimizer, number), own.averages)
            for number, own in enumerate(members)
        ]
        self.checkpoints = [
            Checkpoints(own.context, stage, part) for own, part in zip(members, parts, strict=True)
        ]
        self.reports: list[Reports] = [[] for _ in members]
        self.failed: dict[int, NonFiniteLossError] = {}

    @property
    def going(self) -> list[int]:
        """Numbers of the trainings that have not failed."""
        return [number for number in range(len(self.members)) if number not in self.failed]

    def restore(self) -> int:
        """Go on from the checkpoints, report again, and return the epochs that are done."""
        self.reports = [own.restore() for own in self.checkpoints]
        done = len(self.reports[0])
        if any(len(own) != done for own in self.reports):
            raise NotFusedError("they were interrupted after different epochs")
        for epoch in range(done):
            for member, own in zip(self.members, self.reports, strict=True):
                member.context.report(own[epoch], epoch + 1)
        return done

    def note(
        self,
        losses: Tensor,
        ways: Mapping[str, int],
        after_epoch: Callable[[int, int], dict[str, float]],
    ) -> None:
        """Take in an epoch's losses ``[S, M]``."""
        for number in self.going:
            own = self.reports[number]
            try:
                report = measured(losses[:, number], ways, self.optimizer, self.stage, own)
            except NonFiniteLossError as error:
                self.failed[number] = error
            else:
                own.append(report | after_epoch(number, len(own)))

    def save_if_due(self, *, at_once: bool) -> None:
        """Save all of the trainings or none: they can go on together from one epoch only."""
        chosen = [self.checkpoints[number] for number in self.going]
        if not chosen[-1].is_due(at_once=at_once):  # the one that was saved last
            return
        for number in self.going:
            self.checkpoints[number].save(self.reports[number])
        cost = sum(own.cost for own in chosen)
        for own in chosen:
            own.cost = cost  # of the whole, which is what may take a share of the time

    def report(self) -> None:
        """Report the last epoch."""
        for number in self.going:
            own = self.reports[number]
            self.members[number].context.report(own[-1], len(own))
