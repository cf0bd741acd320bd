"""The one training loop: schedule, precision, clipping, guard against NaN, checkpoints, workers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from trainables.context import Context, ambient_rng
from trainables.functional.plateau import reductions
from trainables.training.checkpoints import Checkpoints, Parts
from trainables.training.classify_settings import Training
from trainables.training.distributed import LossModule, average, data_parallel, shared
from trainables.training.optimizers import LeanSGD, Optimizer
from trainables.training.steps import CompiledStep, EagerStep, Step, make_step

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
RISE = 10.0  # of the loss since the first epoch that is worth a warning


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; the message has the step and the last finite metrics."""


class ParamGroup(NamedTuple):
    """Parameters that share a learning rate, and how to clip their gradient."""

    parameters: list[torch.nn.Parameter]
    lr_factor: float = 1.0


def rate_groups(rated: Iterable[tuple[torch.nn.Parameter, float]]) -> list[ParamGroup]:
    """Return parameters in groups of equal factors, in the order in which factors occur first.

    Example:
        >>> first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.ones(1))
        >>> [group.lr_factor for group in rate_groups([(first, 0.1), (second, 1.0), (first, 0.1)])]
        [0.1, 1.0]
    """
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for parameter, factor in rated:
        groups.setdefault(factor, []).append(parameter)
    return [ParamGroup(parameters, factor) for factor, parameters in groups.items()]


def lr_factor(training: Training, progress: float) -> float:
    """Return the learning-rate factor at a point of training.

    ``cosine``: ``(1 + cos(pi t)) / 2``; ``one_cycle``: linear up to 1 at ``t = 0.3`` and linearly
    down to 0; ``step``: ``gamma`` to the number of milestones (epochs, from 0) passed;
    ``constant`` and ``plateau``: 1 (`plateau_factor` is multiplied). During the first
    ``warmup_epochs`` W the factor is ``(epoch + 1) / W`` instead (LDAM-DRW's rule). During the
    share ``warmup_fraction`` f of the training it is ``t / f``, and ``cosine`` and ``one_cycle``
    span the rest: their t is then ``(t - f) / (1 - f)``.

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
    if training.warmup_fraction:
        share = training.warmup_fraction
        if progress < share:
            return progress / share
        progress = (progress - share) / (1 - share)
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if training.schedule == "one_cycle":
        peak = 0.3
        return progress / peak if progress < peak else max(0.0, (1 - progress) / (1 - peak))
    if training.schedule == "step":
        # 1e-9: an epoch that is reached up to rounding counts as reached
        return training.gamma ** sum(epoch + 1e-9 >= milestone for milestone in training.milestones)
    return 1.0


def plateau_factor(training: Training, reports: Sequence[dict[str, float]], stage: str) -> float:
    """Return the further factor of the schedule ``plateau`` after the epochs that were reported.

    ``gamma`` to the number of times that the validation accuracy, or without validation images the
    loss, did not get better for more than ``patience`` epochs; 1 for other schedules.

    Example:
        >>> flat = [{"classify/loss": 1.0}] * 4
        >>> plateau_factor(Training(schedule="plateau", patience=2), flat, "classify")
        0.1
    """
    if training.schedule != "plateau":
        return 1.0
    accuracy = f"{stage}/validation_accuracy"
    known = all(accuracy in report for report in reports)
    values = [report[accuracy if known else f"{stage}/loss"] for report in reports]
    times = reductions(values, patience=training.patience, higher_is_better=known)
    return training.gamma**times


def num_steps(num_samples: int, batch_size: int) -> int:
    """Return the batches of an epoch, at least one: what the schedule counts in.

    Example:
        >>> num_steps(130, 64)
        3
    """
    return max(1, -(-num_samples // batch_size))


def make_optimizer(training: Training, groups: Sequence[ParamGroup]) -> Optimizer:
    """Return the optimiser over groups with their own learning rates."""
    parameters = [
        {"params": group.parameters, "lr": training.lr * group.lr_factor, "factor": group.lr_factor}
        for group in groups
        if group.parameters
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=training.lr, weight_decay=training.weight_decay)
    return LeanSGD(
        parameters,
        momentum=training.momentum,
        nesterov=training.nesterov and training.momentum > 0,
        weight_decay=training.weight_decay,
    )


class TrainingState(NamedTuple):
    """All state that a training changes, by name, for its checkpoints and workers.

    ``modules`` hold everything that is trained, buffers included; ``averages`` are running means
    outside of modules (see `trainables.training.checkpoints.Parts`); ``name`` tells the trainings
    of a stage apart (its name by default); ``trunk`` is the module that each step calls as a whole,
    if there is one, which may be compiled (``training.step``); ``earlier`` are the reports of
    trainings before it, whose epochs and steps are counted on.
    """

    modules: Mapping[str, torch.nn.Module] = {}
    averages: Mapping[str, Tensor] = {}
    name: str = ""
    trunk: torch.nn.Module | None = None
    earlier: Sequence[dict[str, float]] = ()


def fit(
    groups: Sequence[ParamGroup],
    *,
    epoch_batches: Callable[[int], Iterable[Batch]],
    steps_per_epoch: int | Callable[[int], int],
    batch_loss: Callable[[Batch, float], Tensor],
    training: Training,
    context: Context,
    stage: str,
    dtype: torch.dtype = torch.float32,
    after_epoch: Callable[[int], dict[str, float]] = lambda epoch: {},
    state: TrainingState | None = None,
) -> list[dict[str, float]]:
    """Train and report ``stage/loss``, ``stage/lr`` and what ``after_epoch`` adds, per epoch.

    ``stage/steps`` counts the optimiser's steps from the start: scores compare by iterations.
    ``stage/steps_compiled`` says how many of them ran compiled (``training.step: compiled``).

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
        state: What the training changes; by default the parameters of the groups.

    Raises:
        NonFiniteLossError: A loss was NaN or infinite, on any worker.
    """
    everything = [p for group in groups for p in group.parameters]
    state = state or TrainingState()
    modules = dict(state.modules) or {"parameters": torch.nn.ParameterList(everything)}
    name = state.name or stage
    optimizer = make_optimizer(training, groups)
    checkpoints = Checkpoints(context, name, Parts(modules, optimizer, state.averages))
    before = len(state.earlier)
    reports = checkpoints.restore() or list(state.earlier)
    for epoch, report in enumerate(reports[before:], start=before + 1):
        _report(context, report, epoch)
    end = training.until or training.epochs
    if len(reports) >= before + end:
        return reports
    loss = data_parallel(LossModule(batch_loss, modules.values()), context)
    running = [*state.averages.values(), *(b for m in modules.values() for b in m.buffers())]
    eager = EagerStep(loss, optimizer, training, dtype)
    step = make_step(eager, training, state.trunk, context=context, name=name)
    for epoch in range(len(reports) - before, end):
        draws = context.own_generator(name, "ambient", epoch, device=str(context.device))
        steps = steps_per_epoch(epoch) if callable(steps_per_epoch) else steps_per_epoch
        with ambient_rng(draws):
            scale = plateau_factor(training, reports[before:], stage)
            losses = _epoch(step, epoch_batches(epoch), optimizer, training, epoch, steps, scale)
        average([losses, *running], context)
        report = _measured(losses, step, optimizer, stage, reports)
        report |= after_epoch(epoch) if context.rank == 0 else {}
        reports.append(shared(report, context) if training.schedule == "plateau" else report)
        checkpoints.save_if_due(reports, at_once=epoch + 1 == training.until)
        _report(context, reports[-1], len(reports))
    return reports


def _measured(
    losses: Tensor, step: Step, optimizer: Optimizer, stage: str, reports: list[dict[str, float]]
) -> dict[str, float]:
    """Return what an epoch is reported with; its step counts anew from here."""
    last = reports[-1] if reports else {}
    report = {f"{stage}/loss": _finite_mean(losses, stage, len(reports), last)}
    if reports:
        _warn_of_rise(f"{stage}/loss", reports, report)
    report[f"{stage}/lr"] = optimizer.param_groups[0]["lr"]
    counts = {"steps": len(losses)}
    if isinstance(step, CompiledStep):
        counts["steps_compiled"], step.count = step.count, 0
    from_start = {f"{stage}/{name}": count for name, count in counts.items()}
    return report | {name: last.get(name, 0.0) + count for name, count in from_start.items()}


def _warn_of_rise(name: str, reports: list[dict[str, float]], report: dict[str, float]) -> None:
    """Say once that a loss is ten times what it was in the first epoch: the rate is too large."""
    limit = RISE * reports[0].get(name, math.inf)
    if reports[-1].get(name, math.inf) <= limit < report[name]:
        logger.warning(
            "%s rose from %.3g to %.3g: the learning rate is too large; lower it, or set "
            "gradient_clip",
            name,
            reports[0][name],
            report[name],
        )


def _report(context: Context, metrics: dict[str, float], epoch: int) -> None:
    """Report, if this is the worker that does."""
    if context.rank == 0:
        context.report(metrics, epoch)


def _epoch(
    train: Step,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    training: Training,
    epoch: int,
    steps_per_epoch: int,
    scale: float,
) -> Tensor:
    """Train one epoch and return the loss of each step; nothing waits for the device."""
    losses = []
    for step, batch in enumerate(batches):
        progress = (epoch + step / steps_per_epoch) / training.epochs
        set_lr(optimizer, training, progress, scale)
        losses.append(train(batch, progress))
    return torch.stack(losses).float()


def set_lr(optimizer: Optimizer, training: Training, progress: float, scale: float = 1.0) -> None:
    """Set each group's learning rate for a point of training; ``scale`` is a further factor."""
    factor = scale * lr_factor(training, progress)
    for group in optimizer.param_groups:
        group["lr"] = training.lr * group["factor"] * factor


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
