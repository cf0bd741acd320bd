"""The one training loop: schedule, precision, clipping, guard against NaN, checkpoints, workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from trainables.checkpoints import Checkpoints, Parts, decided
from trainables.context import Context, ambient_rng
from trainables.distributed import LossModule, average, data_parallel
from trainables.experiment import Training
from trainables.optimizers import LeanSGD, Optimizer
from trainables.precision import Precision, resolve_precision
from trainables.recording import Phase
from trainables.steps import EagerStep, Step, counted, make_step

Batch = TypeVar("Batch")


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the message has the step and the last finite metrics."""


class Group(NamedTuple):
    """Parameters that share a learning rate, and how to clip their gradient."""

    parameters: list[torch.nn.Parameter]
    lr_factor: float = 1.0


def lr_factor(training: Training, progress: float) -> float:
    """Return the learning-rate factor at a point of training.

    ``cosine``: ``(1 + cos(pi t)) / 2``; ``one_cycle``: linear up to 1 at ``t = 0.3`` and linearly
    down to 0; ``step``: ``gamma`` to the number of milestones (epochs, from 0) passed. During the
    first ``warmup_epochs`` W the factor is ``(epoch + 1) / W`` instead (LDAM-DRW's rule).

    Args:
        training: Schedule and its settings.
        progress: Fraction of all epochs done, in ``[0, 1]``.

    Example:
        >>> round(lr_factor(Training(schedule="cosine"), 0.5), 3)
        0.5
        >>> lr_factor(Training(schedule="step", epochs=10, milestones=(5, 8)), 0.6)
        0.1
    """
    epoch = progress * training.epochs
    if epoch < training.warmup_epochs:
        return (math.floor(epoch + 1e-9) + 1) / training.warmup_epochs
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if training.schedule == "one_cycle":
        peak = 0.3
        return progress / peak if progress < peak else max(0.0, (1 - progress) / (1 - peak))
    if training.schedule == "step":
        # 1e-9: an epoch that is reached up to rounding counts as reached
        return training.gamma ** sum(epoch + 1e-9 >= milestone for milestone in training.milestones)
    return 1.0


def num_steps(num_samples: int, batch_size: int) -> int:
    """Return the batches of an epoch, at least one: what the schedule counts in.

    Example:
        >>> num_steps(130, 64)
        3
    """
    return max(1, -(-num_samples // batch_size))


def make_optimizer(training: Training, groups: Sequence[Group]) -> Optimizer:
    """Return the optimiser over groups with their own learning rates."""
    parameters = [
        {"params": group.parameters, "lr": training.lr * group.lr_factor, "factor": group.lr_factor}
        for group in groups
        if group.parameters
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=training.lr,
            weight_decay=training.weight_decay,
            capturable=any(p.is_cuda for group in groups for p in group.parameters),
        )
    return LeanSGD(
        parameters,
        momentum=training.momentum,
        nesterov=training.nesterov and training.momentum > 0,
        weight_decay=training.weight_decay,
    )


class Kept(NamedTuple):
    """What a training changes, by name, so that checkpoints, workers and recordings have all of it.

    ``modules`` hold everything that is trained, buffers included; ``averages`` are running means
    outside of modules (see `trainables.checkpoints.Parts`); ``name`` tells the trainings of a
    stage apart (its name by default); ``phase`` says what of a step changes with progress (see
    `trainables.recording.RecordedStep`), without it the step runs call by call; ``earlier`` are the
    reports of trainings before it, whose epochs and steps are counted on.
    """

    modules: Mapping[str, torch.nn.Module] = {}
    averages: Mapping[str, Tensor] = {}
    name: str = ""
    phase: Phase | None = None
    earlier: Sequence[dict[str, float]] = ()


def choose_precision(
    trunk: torch.nn.Module,
    training: Training,
    *,
    image_size: int,
    budget_images: int,
    context: Context,
    stage: str,
) -> Precision:
    """Return how a trunk computes, the same on all workers and after an interruption.

    Args:
        trunk: The network that will train.
        training: ``precision``, ``layout`` and batch size.
        image_size: Height and width of the images.
        budget_images: How many images the training will see.
        context: Device, folder and workers.
        stage: Name of the choice.
    """

    def decide() -> list[str]:
        found = resolve_precision(
            trunk,
            training.precision,
            training.layout,
            batch_size=training.batch_size,
            image_size=image_size,
            device=context.device,
            budget_images=budget_images,
        )
        return [str(part).removeprefix("torch.") for part in found]

    dtype, layout = decided(context, f"{stage}-precision", decide)
    return Precision(getattr(torch, dtype), getattr(torch, layout))


def fit(
    groups: Sequence[Group],
    *,
    epoch_batches: Callable[[int], Iterable[Batch]],
    steps_per_epoch: int | Callable[[int], int],
    batch_loss: Callable[[Batch, float], Tensor],
    training: Training,
    context: Context,
    stage: str,
    dtype: torch.dtype = torch.float32,
    after_epoch: Callable[[int], dict[str, float]] = lambda epoch: {},
    kept: Kept | None = None,
) -> list[dict[str, float]]:
    """Train and report ``stage/loss``, ``stage/lr`` and what ``after_epoch`` adds, per epoch.

    ``stage/steps`` counts the optimiser's steps from the start: scores compare by iterations.
    ``stage/steps_graph`` and ``stage/steps_compiled`` say how many of them ran in such a way
    (``training.step``); without them all ran call by call.

    A training that was interrupted goes on from its last checkpoint in ``context.folder``; the
    reports of the epochs before it are made again first, so that each is made once per run. One
    that ends early (``training.until``) leaves a checkpoint from which a longer one goes on.
    Several workers average gradients, losses and running means; the first one alone reports.
    Returns the reports of all epochs, those of earlier trainings first.

    Args:
        groups: What is trained.
        epoch_batches: Gives the batches of an epoch (from 0); as many on every worker.
        steps_per_epoch: Batches per epoch, for the schedule; or a function of the epoch.
        batch_loss: ``(batch, progress) -> scalar``; progress in ``[0, 1)``.
        training: Optimiser, schedule, epochs.
        context: Receives the reports.
        stage: Prefix of the metric names.
        dtype: ``torch.bfloat16`` computes under autocast with float32 weights.
        after_epoch: Called with the epoch, by the first worker; returns metrics to report with it.
        kept: What the training changes; by default the parameters of the groups.

    Raises:
        NonFiniteLossError: A loss was NaN or infinite, on any worker.
    """
    everything = [p for group in groups for p in group.parameters]
    kept = kept or Kept()
    modules = dict(kept.modules) or {"parameters": torch.nn.ParameterList(everything)}
    name = kept.name or stage
    optimizer = make_optimizer(training, groups)
    checkpoints = Checkpoints(context, name, Parts(modules, optimizer, kept.averages))
    before = len(kept.earlier)
    reports = checkpoints.restore() or list(kept.earlier)
    for epoch, report in enumerate(reports[before:], start=before + 1):
        _report(context, report, epoch)
    end = training.until or training.epochs
    if len(reports) >= before + end:
        return reports
    loss = data_parallel(LossModule(batch_loss, modules.values()), context)
    running = [*kept.averages.values(), *(b for m in modules.values() for b in m.buffers())]
    eager, state = EagerStep(loss, optimizer, training, dtype), [*everything, *running]
    step = make_step(
        eager, training, phase=kept.phase, state=state, modules=modules, context=context, name=name
    )
    for epoch in range(len(reports) - before, end):
        draws = context.own_generator(name, "ambient", epoch, device=str(context.device))
        steps = steps_per_epoch(epoch) if callable(steps_per_epoch) else steps_per_epoch
        with ambient_rng(draws):
            losses = train_epoch(step, epoch_batches(epoch), optimizer, training, epoch, steps)
        average([losses, *running], context)
        report = measured(losses, counted(step), optimizer, stage, reports)
        reports.append(report | (after_epoch(epoch) if context.rank == 0 else {}))
        checkpoints.save_if_due(reports, at_once=epoch + 1 == training.until)
        _report(context, reports[-1], len(reports))
    return reports


def measured(
    losses: Tensor,
    ways: Mapping[str, int],
    optimizer: Optimizer,
    stage: str,
    reports: list[dict[str, float]],
) -> dict[str, float]:
    """Return what an epoch is reported with.

    Args:
        losses: Of each step ``[S]``.
        ways: How many of the steps ran in a way of their own, by the name of the metric.
        optimizer: Has the learning rate.
        stage: Prefix of the metric names.
        reports: Of the epochs before.

    Raises:
        NonFiniteLossError: A loss was NaN or infinite.
    """
    last = reports[-1] if reports else {}
    report = {f"{stage}/loss": _finite_mean(losses, stage, len(reports), last)}
    report[f"{stage}/lr"] = float(optimizer.param_groups[0]["lr"])
    counts = {"steps": len(losses), **ways}
    from_start = {f"{stage}/{name}": count for name, count in counts.items()}
    return report | {name: last.get(name, 0.0) + count for name, count in from_start.items()}


def _report(context: Context, metrics: dict[str, float], epoch: int) -> None:
    """Report, if this is the worker that does."""
    if context.rank == 0:
        context.report(metrics, epoch)


def train_epoch(
    train: Step,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    training: Training,
    epoch: int,
    steps_per_epoch: int,
) -> Tensor:
    """Train one epoch and return the losses of each step; nothing waits for the device."""
    losses = []
    for step, batch in enumerate(batches):
        progress = (epoch + step / steps_per_epoch) / training.epochs
        set_lr(optimizer, training, progress)
        losses.append(train(batch, progress))
    return torch.stack(losses).float()


def set_lr(optimizer: Optimizer, training: Training, progress: float) -> None:
    """Set each group's learning rate for a point of training; a tensor keeps its place."""
    factor = lr_factor(training, progress)
    for group in optimizer.param_groups:
        rate = training.lr * group["factor"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _finite_mean(values: Tensor, stage: str, epoch: int, last: dict[str, float]) -> float:
    """Return the mean loss of an epoch; one device synchronisation, not one per step."""
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        step = int((~finite).nonzero()[0])
        known = ", ".join(f"{k}={v:.4g}" for k, v in last.items()) or "none"
        raise NonFiniteLossError(
            f"{stage}: loss is {values[step].item()} at epoch {epoch + 1}, step {step + 1}; "
            f"last finite metrics: {known}; try a smaller lr or gradient_clip"
        )
    return float(values.mean())
