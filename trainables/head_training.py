"""Train a head on cached features: seconds become milliseconds, the trunk is not even loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.artifacts import Classifier
from trainables.context import ambient_rng
from trainables.methods.heads import Head

MOMENTUM = 0.9

# (logits [B, C], labels [B], rows [B]) -> scalar; rows are positions in the features
HeadObjective = Callable[[Tensor, Tensor, Tensor], Tensor]


class HeadJob(NamedTuple):
    """A head and how it is to be trained; `train_job` does it, `train_heads` does many at once.

    SGD with momentum; the learning rate falls to zero as a half cosine over all steps.

    Args:
        module: What is trained: its parameters that require a gradient.
        draws: Indices of the samples in the order of training; cut into batches. They go to the
            device of the features once.
        batch_size: Samples per step.
        lr: First learning rate.
        weight_decay: L2 penalty on all trained parameters.
        momentum: In [0, 1).
        slow: Parameters with ``lr * slow_factor`` instead of ``lr``.
        slow_factor: See ``slow``.
        objective: What is minimised; ``None``: the cross-entropy, mean over the batch.
        seed: Of what the module draws itself (dropout).
    """

    module: nn.Module
    draws: Tensor
    batch_size: int
    lr: float
    weight_decay: float
    momentum: float = MOMENTUM
    slow: tuple[nn.Parameter, ...] = ()
    slow_factor: float = 1.0
    objective: HeadObjective | None = None
    seed: int = 0


class ScaledLinear(nn.Module):
    """A linear head with a factor per class: ``scale_c (w_c . x + b_c)``.

    Args:
        linear: The head that is scaled; it is used as it is, not copied.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.scale = nn.Parameter(torch.ones_like(linear.weight[:, 0]))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``[B, C]``."""
        logits: Tensor = self.scale * self.linear(features)
        return logits

    def folded(self) -> dict[str, Tensor]:
        """Return the state of the linear head that gives the same logits."""
        return {
            name: (value * self.scale[:, None] if value.ndim == 2 else value * self.scale).detach()
            for name, value in self.linear.state_dict().items()
        }


def new_head(
    head: Head,
    *,
    num_features: int,
    num_classes: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Return a freshly initialised head module; the draws come from ``generator``, on the CPU."""
    with ambient_rng(_branch(generator)):
        module: nn.Module = head.build(num_features, num_classes)
    return module.to(device)


def loaded_head(classifier: Classifier) -> nn.Module:
    """Return the classifier's head as a module with its weights, on their device."""
    with ambient_rng(torch.Generator()):  # the drawn weights are overwritten
        module: nn.Module = classifier.head.build(
            classifier.num_features, len(classifier.class_counts)
        )
    module.to(classifier.logit_offset.device).load_state_dict(classifier.state)
    return module


def scaled_linear(classifier: Classifier, *, owner: str) -> ScaledLinear:
    """Return the classifier's linear head with a factor per class, all 1.

    Raises:
        ValueError: The head is not linear; ``owner`` is who says so.
    """
    module = loaded_head(classifier)
    if not isinstance(module, nn.Linear):
        raise ValueError(
            f"{owner} needs the head 'linear', which a factor per class turns into another one; "
            f"received '{classifier.head.name}'"
        )
    return ScaledLinear(module)


def class_balanced_draws(labels: Tensor, *, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw sample indices ``[num_draws]`` with replacement, every class that occurs alike.

    Drawn on the CPU, wherever the labels are: the same generator gives the same samples.

    Example:
        >>> labels = torch.tensor([0] * 90 + [1] * 10)
        >>> draws = class_balanced_draws(
        ...     labels, num_draws=1000, generator=torch.Generator().manual_seed(0)
        ... )
        >>> 400 < int((labels[draws] == 1).sum()) < 600
        True
    """
    if num_draws == 0:
        return torch.empty(0, dtype=torch.int64)
    labels = labels.cpu()
    weights = 1.0 / torch.bincount(labels).double()[labels]
    return torch.multinomial(weights, num_draws, replacement=True, generator=generator)


def shuffled_draws(num_samples: int, *, epochs: int, generator: torch.Generator) -> Tensor:
    """Return the indices of ``epochs`` passes over all samples, each in a new order.

    Example:
        >>> draws = shuffled_draws(3, epochs=2, generator=torch.Generator().manual_seed(0))
        >>> draws[:3].sort().values.tolist(), len(draws)
        ([0, 1, 2], 6)
    """
    passes = [torch.randperm(num_samples, generator=generator) for _ in range(epochs)]
    return torch.cat(passes) if passes else torch.empty(0, dtype=torch.int64)


def train_head(
    module: nn.Module,
    *,
    features: Tensor,
    labels: Tensor,
    draws: Tensor,
    batch_size: int,
    lr: float,
    weight_decay: float,
    slow: Iterable[nn.Parameter] = (),
    slow_factor: float = 1.0,
    objective: HeadObjective | None = None,
) -> nn.Module:
    """Train a head on pre-drawn samples, and return it in evaluation mode.

    See `HeadJob` for the arguments, `train_job` for what happens.
    """
    job = HeadJob(
        module=module,
        draws=draws,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        slow=tuple(slow),
        slow_factor=slow_factor,
        objective=objective,
    )
    return train_job(job, features=features, labels=labels)


def train_job(job: HeadJob, *, features: Tensor, labels: Tensor) -> nn.Module:
    """Train one head on cached features, and return it in evaluation mode.

    The steps are written out here: building the first `torch.optim` optimiser of a process imports
    torch's compiler, which takes longer (seconds) than the training.

    Args:
        job: What is trained, and how.
        features: ``[N, D]``.
        labels: ``[N]`` int64.

    Raises:
        ArithmeticError: A weight is NaN or infinite in the end: the learning rate is too large.
    """
    generator = torch.Generator(features.device).manual_seed(job.seed)
    with ambient_rng(generator):  # dropout draws from the ambient generator
        _take_steps(job, features, labels)
    if not all(bool(p.isfinite().all()) for p in job.module.parameters() if p.requires_grad):
        raise diverged(job.lr)
    return job.module.eval()


def _take_steps(job: HeadJob, features: Tensor, labels: Tensor) -> None:
    """Take all steps of SGD, in place."""
    job.module.train()
    objective = job.objective or cross_entropy
    inputs = features.to(torch.promote_types(features.dtype, torch.float32))
    slowed = {id(parameter) for parameter in job.slow}
    trained = [parameter for parameter in job.module.parameters() if parameter.requires_grad]
    rates = [job.lr * (job.slow_factor if id(p) in slowed else 1.0) for p in trained]
    velocities = [torch.zeros_like(parameter) for parameter in trained]
    draws = job.draws.to(features.device)
    batches = draws.split(job.batch_size) if len(draws) else ()
    for step, batch in enumerate(batches):
        fraction = half_cosine(step, len(batches))
        logits = job.module(inputs[batch]).to(inputs.dtype)
        gradients = torch.autograd.grad(objective(logits, labels[batch], batch), trained)
        with torch.no_grad():
            for parameter, velocity, gradient, rate in zip(
                trained, velocities, gradients, rates, strict=True
            ):
                velocity.mul_(job.momentum).add_(gradient).add_(parameter, alpha=job.weight_decay)
                parameter.sub_(velocity, alpha=rate * fraction)


def cross_entropy(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Return the mean cross-entropy of a batch: the objective of a job that names none."""
    return nn.functional.cross_entropy(logits, labels)


def half_cosine(step: int, steps: int) -> float:
    """Return the share of the first learning rate that a step has: 1 at first, near 0 at last."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def diverged(lr: float) -> ArithmeticError:
    """Return the error of a head whose weights are not finite."""
    return ArithmeticError(
        f"training the head with lr {lr} gave weights that are not finite; try a smaller lr"
    )


def head_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's weights and buffers, detached, in a form that an artifact stores."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _branch(generator: torch.Generator) -> torch.Generator:
    """Return a generator seeded by one draw, so that the caller's moves on."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator().manual_seed(seed)
