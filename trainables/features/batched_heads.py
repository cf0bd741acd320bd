"""Train many heads on the same cached features in batched operations.

Heads of one kind that draw the same samples share every step: one matrix product computes the
logits of all heads, the gradient of the loss is in closed form, and one product computes all weight
gradients. The heads are the last, contiguous axis, so that operations vectorize over heads; most of
the speedup comes from this layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.features.head_losses import HeadLoss, LossStack
from trainables.features.head_stacks import (
    CausalNormStack,
    CosineStack,
    FactorStack,
    HeadStack,
    LinearStack,
    MLPStack,
    ScaledStack,
)
from trainables.features.head_training import (
    HeadTrainingSpec,
    ScaledLinear,
    diverged,
    half_cosine,
    train_job,
    with_rate,
)
from trainables.models.head_modules import CausalNormHead, CosineHead, LinearHead, MLPHead

# Limit of logits per step; more heads are trained in several groups. 2**19 logits fit into the
# cache of a CPU core; a GPU is faster with more, and 2**26 take 256 MB.
LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_GPU = 2**19, 2**26
STACKS: dict[type[nn.Module], type[Any]] = {
    LinearHead: LinearStack,
    CosineHead: CosineStack,
    CausalNormHead: CausalNormStack,
    MLPHead: MLPStack,
}


def train_heads(
    jobs: Sequence[HeadTrainingSpec],
    *,
    features: Tensor,
    labels: Tensor,
    at_once: int | None = None,
) -> list[nn.Module | ArithmeticError]:
    """Train heads with the results of `train_job` up to rounding, but much faster.

    Jobs may differ in initial weights, learning rate, weight decay, momentum, number of steps and
    all numbers of a `HeadLoss`. Jobs with the same kind of head, batch size and draws form a group;
    a job with fewer draws joins a group whose draws begin with the job's draws. Jobs that can't be
    grouped (another objective, dropout, other modules) are trained separately.

    Args:
        jobs: Heads and training settings; the modules change in place.
        features: ``[N, D]``.
        labels: ``[N]`` int64.
        at_once: Largest number of heads that share a step; ``None`` chooses by their size.

    Returns:
        For each job its module in evaluation mode, or an error if the weights are not finite.
    """
    jobs = [with_rate(job, features) for job in jobs]
    inputs = features.to(torch.promote_types(features.dtype, torch.float32))
    results: list[nn.Module | ArithmeticError | None] = [None] * len(jobs)
    for group in _groups(jobs):
        members = [jobs[place] for place in group.places]
        if group.kind is None or len(members) == 1:
            trained = [_train_single(job, features, labels) for job in members]
        else:
            width = at_once or _width(members[0], on_cpu=features.device.type == "cpu")
            trained = []
            for start in range(0, len(members), width):
                part = members[start : start + width]
                trained += _train_batch(part, group.kind, inputs, labels)
        for place, result in zip(group.places, trained, strict=True):
            results[place] = result
    return [result for result in results if result is not None]


class _Group(NamedTuple):
    """Indices of jobs that share steps, longest draws first; without a kind, jobs do not share."""

    kind: type[Any] | None
    signature: tuple[Any, ...]
    draws: Tensor
    places: list[int]


def _groups(jobs: Sequence[HeadTrainingSpec]) -> list[_Group]:
    """Group jobs by kind of head, settings, batch size, draws and teacher."""
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


def _teacher(job: HeadTrainingSpec) -> Tensor | None:
    """Return the distillation teacher of a job's loss."""
    objective = job.objective
    return objective.teacher if isinstance(objective, HeadLoss) and objective.distillation else None


def _kind(job: HeadTrainingSpec) -> tuple[type[Any] | None, tuple[Any, ...]]:
    """Return the stack class of a job's head, and the settings that its group must share."""
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


def _plain_kind(job: HeadTrainingSpec) -> type[Any] | None:
    """Return the stack class of a head whose parameters are all trained with one learning rate."""
    return STACKS.get(type(job.module)) if not job.slow and _all_free(job.module) else None


def _scaled_kind(job: HeadTrainingSpec, module: ScaledLinear) -> type[Any] | None:
    """Return the stack class of a head with class factors, by the learning rate of the head."""
    if not any(parameter.requires_grad for parameter in module.linear.parameters()):
        return FactorStack if module.scale.requires_grad and not job.slow else None
    slow, inner = {id(p) for p in job.slow}, {id(p) for p in module.linear.parameters()}
    return ScaledStack if _all_free(module) and slow in (set(), inner) else None


def _all_free(module: nn.Module) -> bool:
    """Say whether all parameters are trained."""
    return all(parameter.requires_grad for parameter in module.parameters())


def _content(*tensors: Tensor) -> tuple[bytes, ...]:
    """Return digests of tensors' contents."""
    raw = (tensor.detach().cpu().contiguous().view(torch.uint8).numpy() for tensor in tensors)
    return tuple(hashlib.blake2b(values.data).digest() for values in raw)


def _width(job: HeadTrainingSpec, *, on_cpu: bool) -> int:
    """Return the number of heads that share a step, by the limit of logits per step."""
    classes = max(p.shape[0] for p in job.module.parameters() if p.ndim)
    room = LOGITS_AT_ONCE if on_cpu else LOGITS_AT_ONCE_ON_GPU
    return max(16, room // max(1, job.batch_size * classes))


def _train_single(
    job: HeadTrainingSpec, features: Tensor, labels: Tensor
) -> nn.Module | ArithmeticError:
    """Train one head separately."""
    try:
        return train_job(job, features=features, labels=labels)
    except ArithmeticError as error:
        return error


@torch.no_grad()
def _train_batch(
    jobs: Sequence[HeadTrainingSpec], kind: type[Any], inputs: Tensor, labels: Tensor
) -> list[nn.Module | ArithmeticError]:
    """Train jobs of one group; each head leaves the group when its draws end."""
    state, size = _start(jobs, kind, inputs), jobs[0].batch_size
    draws = jobs[0].draws.to(inputs.device)
    done = 0
    for length in sorted({len(job.draws) for job in jobs}):
        fractions = _fractions(state, range(done, length // size))
        for step, fraction in zip(range(done, length // size), fractions, strict=True):
            _step(state, draws[step * size : (step + 1) * size], labels, fraction)
        done = length // size
        ending = [len(job.draws) == length for job in state.jobs]
        leaving = _select(state, [place for place, ends in enumerate(ending) if ends])
        if length % size:  # a last, smaller batch of the ending heads
            (fraction,) = _fractions(leaving, range(done, done + 1))
            _step(leaving, draws[done * size : length], labels, fraction)
        for place, job in enumerate(leaving.jobs):
            leaving.stack.store(place, job.module)
        if not all(ending):
            state = _select(state, [place for place, ends in enumerate(ending) if not ends])
    return [_result(job) for job in jobs]


class _State(NamedTuple):
    """Heads in training, with velocity, learning rate and decay of each parameter ``[..., K]``."""

    jobs: list[HeadTrainingSpec]
    stack: HeadStack
    losses: LossStack
    velocities: list[Tensor]
    rates: list[Tensor]
    decays: list[Tensor]
    momentum: Tensor | float
    steps: list[int]


def _start(jobs: Sequence[HeadTrainingSpec], kind: type[Any], inputs: Tensor) -> _State:
    """Stack the heads of one group's jobs."""
    stack: HeadStack = kind.of([job.module.train() for job in jobs], inputs)
    classes = _num_classes(jobs[0].module)
    plain = HeadLoss()
    losses = [job.objective if isinstance(job.objective, HeadLoss) else plain for job in jobs]
    velocities = [torch.zeros_like(parameter) for parameter in stack.parameters]
    like = stack.parameters[0]
    return _build_state(
        list(jobs), stack, LossStack(losses, num_classes=classes, like=like), velocities
    )


def _select(state: _State, places: list[int]) -> _State:
    """Return the state of the heads at ``places``."""
    index = torch.tensor(places, device=state.velocities[0].device)
    return _build_state(
        [state.jobs[place] for place in places],
        state.stack.select(index),
        state.losses.select(places),
        [velocity.index_select(-1, index) for velocity in state.velocities],
    )


def _build_state(
    jobs: list[HeadTrainingSpec], stack: HeadStack, losses: LossStack, velocities: list[Tensor]
) -> _State:
    """Build the state, with the jobs' learning rates, decays and momenta as tensors."""

    def wide(numbers: list[float], parameter: Tensor) -> Tensor:
        # expanded over the last two axes, because operations on rows of length K are slow
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
    """Return each step's factor of the learning rate, one number or one number per head.

    The factors of all steps are computed at once, because each copy to a GPU synchronizes.
    """
    table = [[half_cosine(step, length) for length in state.steps] for step in steps]
    if all(len(set(row)) == 1 for row in table):
        return [row[0] for row in table]
    return state.velocities[0].new_tensor(table).unbind()


def _step(state: _State, batch: Tensor, labels: Tensor, fraction: float | Tensor) -> None:
    """Take one SGD step with all heads, in place."""
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
    """Return the number of classes C of a head."""
    last = module.linear if isinstance(module, ScaledLinear) else module
    weight = last.classifier.weight if isinstance(last, MLPHead) else last.weight
    return len(weight)  # type: ignore[arg-type]


def _result(job: HeadTrainingSpec) -> nn.Module | ArithmeticError:
    """Return a trained module in evaluation mode, or an error if its weights are not finite."""
    if all(bool(parameter.isfinite().all()) for parameter in job.module.parameters()):
        return job.module.eval()
    return diverged(job.lr)
