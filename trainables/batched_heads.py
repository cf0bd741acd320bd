"""Train many heads on the same cached features in one computation.

Heads of one kind that draw the same samples share every step: one product gives the logits of all
of them, the loss's gradient is written out, one product gives all gradients. The head is the last
axis in memory, so that each operation runs over full vectors: that layout is most of the gain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.head_losses import HeadLoss, LossStack
from trainables.head_stacks import (
    CausalNormStack,
    CosineStack,
    FactorStack,
    LinearStack,
    MLPStack,
    ScaledStack,
    Stack,
)
from trainables.head_training import HeadJob, ScaledLinear, diverged, half_cosine, train_job
from trainables.modules import CausalNormHead, CosineHead, LinearHead, MLPHead

# Logits of a step, more heads are trained in several turns: on a CPU they stay in a core's own
# cache; a GPU gains from width, and 2**26 take 256 MB.
LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_GPU = 2**19, 2**26
STACKS: dict[type[nn.Module], type[Any]] = {
    LinearHead: LinearStack,
    CosineHead: CosineStack,
    CausalNormHead: CausalNormStack,
    MLPHead: MLPStack,
}


def train_heads(
    jobs: Sequence[HeadJob], *, features: Tensor, labels: Tensor, at_once: int | None = None
) -> list[nn.Module | ArithmeticError]:
    """Train heads as `train_job` does one by one, equal up to rounding, much faster together.

    Jobs may differ in start, learning rate, weight decay, momentum, number of steps and in all
    numbers of a `HeadLoss`. They are grouped by kind of head, batch size and draws; a job with
    fewer draws than another joins it if its draws are the first of the other's. What cannot be
    grouped (another objective, dropout, other modules) is trained alone.

    Args:
        jobs: What is trained, and how; the modules change in place.
        features: ``[N, D]``.
        labels: ``[N]`` int64.
        at_once: Heads that share a step at most; ``None`` decides by their size.

    Returns:
        For each job its module in evaluation mode, or the error of weights that are not finite.
    """
    inputs = features.to(torch.promote_types(features.dtype, torch.float32))
    results: list[nn.Module | ArithmeticError | None] = [None] * len(jobs)
    for group in _groups(jobs):
        members = [jobs[place] for place in group.places]
        if group.kind is None or len(members) == 1:
            trained = [_alone(job, features, labels) for job in members]
        else:
            width = at_once or _width(members[0], on_cpu=features.device.type == "cpu")
            trained = []
            for start in range(0, len(members), width):
                part = members[start : start + width]
                trained += _together(part, group.kind, inputs, labels)
        for place, result in zip(group.places, trained, strict=True):
            results[place] = result
    return [result for result in results if result is not None]


class _Group(NamedTuple):
    """Jobs that can share their steps: their places, longest draws first; no kind: alone."""

    kind: type[Any] | None
    signature: tuple[Any, ...]
    draws: Tensor
    places: list[int]


def _groups(jobs: Sequence[HeadJob]) -> list[_Group]:
    """Group jobs by kind, settings, batch size, draws and teacher."""
    groups: list[_Group] = []
    for place in sorted(range(len(jobs)), key=lambda place: -len(jobs[place].draws)):
        job = jobs[place]
        kind, signature = _kind(job)
        for group in groups:
            same = kind is not None and (group.kind, group.signature) == (kind, signature)
            teachers = {
                id(t)
                for member in (*group.places, place)
                if (t := _teacher(jobs[member])) is not None
            }
            if same and len(teachers) < 2 and torch.equal(group.draws[: len(job.draws)], job.draws):
                group.places.append(place)
                break
        else:
            groups.append(_Group(kind, signature, job.draws, [place]))
    return groups


def _teacher(job: HeadJob) -> Tensor | None:
    """Return the teacher that a job's loss distils."""
    objective = job.objective
    return objective.teacher if isinstance(objective, HeadLoss) and objective.distillation else None


def _kind(job: HeadJob) -> tuple[type[Any] | None, tuple[Any, ...]]:
    """Return the stack that holds a job's head, and what its group must have in common."""
    module, objective = job.module, job.objective
    known = objective is None or isinstance(objective, HeadLoss)
    dropout = any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.modules())
    kind = _scaled_kind(job, module) if isinstance(module, ScaledLinear) else _plain_kind(job)
    if not known or dropout or kind is None:
        return None, ()
    shapes = ((name, parameter.shape) for name, parameter in module.named_parameters())
    common = (job.batch_size, *shapes)
    if isinstance(module, CausalNormHead):
        numbers = (module.num_heads, module.tau, module.gamma, module.momentum)
        return kind, (*common, *numbers, *_content(module.mean_feature))
    if kind is FactorStack and isinstance(module, ScaledLinear):
        return kind, (*common, *_content(*module.linear.state_dict().values()))
    return kind, common


def _plain_kind(job: HeadJob) -> type[Any] | None:
    """Return the stack of a head whose parameters all train alike."""
    return STACKS.get(type(job.module)) if not job.slow and _all_free(job.module) else None


def _scaled_kind(job: HeadJob, module: ScaledLinear) -> type[Any] | None:
    """Return the stack of a head with class factors: the head is frozen, or slow, or as fast."""
    if not any(parameter.requires_grad for parameter in module.linear.parameters()):
        return FactorStack if module.scale.requires_grad and not job.slow else None
    slow, inner = {id(p) for p in job.slow}, {id(p) for p in module.linear.parameters()}
    return ScaledStack if _all_free(module) and slow in (set(), inner) else None


def _all_free(module: nn.Module) -> bool:
    """Say whether all parameters train."""
    return all(parameter.requires_grad for parameter in module.parameters())


def _content(*tensors: Tensor) -> tuple[bytes, ...]:
    """Return digests of tensors, which are equal for equal numbers."""
    raw = (tensor.detach().cpu().contiguous().view(torch.uint8).numpy() for tensor in tensors)
    return tuple(hashlib.blake2b(values.data).digest() for values in raw)


def _width(job: HeadJob, *, on_cpu: bool) -> int:
    """Return how many heads share a step: as many as the logits leave room for."""
    classes = max(p.shape[0] for p in job.module.parameters() if p.ndim)
    room = LOGITS_AT_ONCE if on_cpu else LOGITS_AT_ONCE_ON_GPU
    return max(16, room // max(1, job.batch_size * classes))


def _alone(job: HeadJob, features: Tensor, labels: Tensor) -> nn.Module | ArithmeticError:
    """Train one head by itself."""
    try:
        return train_job(job, features=features, labels=labels)
    except ArithmeticError as error:
        return error


@torch.no_grad()
def _together(
    jobs: Sequence[HeadJob], kind: type[Any], inputs: Tensor, labels: Tensor
) -> list[nn.Module | ArithmeticError]:
    """Train jobs whose draws begin alike; a head leaves when its draws end."""
    state, size = _start(jobs, kind, inputs), jobs[0].batch_size
    draws = jobs[0].draws.to(inputs.device)
    done = 0
    for length in sorted({len(job.draws) for job in jobs}):
        fractions = _fractions(state, range(done, length // size))
        for step, fraction in zip(range(done, length // size), fractions, strict=True):
            _step(state, draws[step * size : (step + 1) * size], labels, fraction)
        done = length // size
        ending = [len(job.draws) == length for job in state.jobs]
        leaving = _taken(state, [place for place, ends in enumerate(ending) if ends])
        if length % size:  # a last batch of its own: those that go on have a whole one
            (fraction,) = _fractions(leaving, range(done, done + 1))
            _step(leaving, draws[done * size : length], labels, fraction)
        for place, job in enumerate(leaving.jobs):
            leaving.stack.store(place, job.module)
        if not all(ending):
            state = _taken(state, [place for place, ends in enumerate(ending) if not ends])
    return [_finished(job) for job in jobs]


class _State(NamedTuple):
    """Heads in training. Of each parameter ``[..., K]``: velocity, learning rate, decay."""

    jobs: list[HeadJob]
    stack: Stack
    losses: LossStack
    velocities: list[Tensor]
    rates: list[Tensor]
    decays: list[Tensor]
    momentum: Tensor | float
    steps: list[int]


def _start(jobs: Sequence[HeadJob], kind: type[Any], inputs: Tensor) -> _State:
    """Stack jobs of one group."""
    stack: Stack = kind.of([job.module.train() for job in jobs], inputs)
    classes = _num_classes(jobs[0].module)
    plain = HeadLoss()
    losses = [job.objective if isinstance(job.objective, HeadLoss) else plain for job in jobs]
    velocities = [torch.zeros_like(parameter) for parameter in stack.parameters]
    like = stack.parameters[0]
    return _scheduled(
        list(jobs), stack, LossStack(losses, num_classes=classes, like=like), velocities
    )


def _taken(state: _State, places: list[int]) -> _State:
    """Return the state of some of the heads."""
    index = torch.tensor(places, device=state.velocities[0].device)
    return _scheduled(
        [state.jobs[place] for place in places],
        state.stack.taken(index),
        state.losses.taken(places),
        [velocity.index_select(-1, index) for velocity in state.velocities],
    )


def _scheduled(
    jobs: list[HeadJob], stack: Stack, losses: LossStack, velocities: list[Tensor]
) -> _State:
    """Lay out what the steps need of the jobs' numbers."""

    def wide(numbers: list[float], parameter: Tensor) -> Tensor:
        # as wide as the last two axes: rows of K alone are too short to run over
        return parameter.new_tensor(numbers).expand(parameter.shape[-2:]).contiguous()

    plain = [job.lr for job in jobs]
    slow = [job.lr * (job.slow_factor if job.slow else 1.0) for job in jobs]
    momenta = [job.momentum for job in jobs]
    even = len(set(momenta)) == 1
    return _State(
        jobs=jobs,
        stack=stack,
        losses=losses,
        velocities=velocities,
        rates=[
            wide(slow if slowed else plain, parameter)
            for parameter, slowed in zip(stack.parameters, stack.slowed, strict=True)
        ],
        decays=[wide([job.weight_decay for job in jobs], p) for p in stack.parameters],
        momentum=momenta[0] if even else stack.parameters[0].new_tensor(momenta),
        steps=[-(-len(job.draws) // job.batch_size) for job in jobs],
    )


def _fractions(state: _State, steps: range) -> Iterable[float | Tensor]:
    """Return the part of the learning rate that the heads take in each step, one or one each.

    All steps at once: a GPU would be waited for in every one of them.
    """
    table = [[half_cosine(step, length) for length in state.steps] for step in steps]
    if all(len(set(row)) == 1 for row in table):
        return [row[0] for row in table]
    return state.velocities[0].new_tensor(table).unbind()


def _step(state: _State, batch: Tensor, labels: Tensor, fraction: float | Tensor) -> None:
    """Take one step of SGD with all heads, in place."""
    logits = state.stack.forward(batch)
    gradient = state.losses.gradient(logits, labels[batch], batch)
    for velocity in state.velocities:
        velocity.mul_(state.momentum)
    state.stack.backward(batch, gradient, state.velocities)
    for parameter, velocity, rate, decay in zip(
        state.stack.parameters, state.velocities, state.rates, state.decays, strict=True
    ):
        velocity.addcmul_(parameter, decay)
        parameter.addcmul_(velocity, rate * fraction, value=-1)


def _num_classes(module: nn.Module) -> int:
    """Return C."""
    last = module.linear if isinstance(module, ScaledLinear) else module
    weight = last.classifier.weight if isinstance(last, MLPHead) else last.weight
    return len(weight)  # type: ignore[arg-type]


def _finished(job: HeadJob) -> nn.Module | ArithmeticError:
    """Return a trained module in evaluation mode, or what is wrong with its weights."""
    if all(bool(parameter.isfinite().all()) for parameter in job.module.parameters()):
        return job.module.eval()
    return diverged(job.lr)
