"""Train a head on cached features, without the trunk: milliseconds instead of seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.artifacts import Classifier
from trainables.context import ambient_rng
from trainables.methods.heads import Head
from trainables.models.head_rate import rate_factor
from trainables.training.optimizers import LeanSGD

MOMENTUM = 0.9

# (logits [B, C], labels [B], rows [B]) -> scalar; rows are indices into the features
HeadObjective = Callable[[Tensor, Tensor, Tensor], Tensor]


class HeadTrainingSpec(NamedTuple):
    """A head and its training settings, for `train_job` or, with many others, `train_heads`.

    The optimizer is SGD with momentum; the learning rate decreases to zero as a half cosine over
    all steps.

    Args:
        module: Head; its parameters that require a gradient are trained.
        draws: Indices of the samples in training order, split into batches; copied once to the
            device of the features.
        batch_size: Samples per step.
        lr: Initial learning rate.
        weight_decay: L2 penalty on all trained parameters.
        scaled: Lower the rate for features of large norm; see `rate_factor`.
        momentum: In [0, 1).
        slow: Parameters with ``lr * slow_factor`` instead of ``lr``.
        slow_factor: See ``slow``.
        objective: Training objective; ``None`` is the mean cross-entropy of the batch.
        seed: Seed of the module's random numbers (dropout).
    """

    module: nn.Module
    draws: Tensor
    batch_size: int
    lr: float
    weight_decay: float
    momentum: float = MOMENTUM
    scaled: bool = False
    slow: tuple[nn.Parameter, ...] = ()
    slow_factor: float = 1.0
    objective: HeadObjective | None = None
    seed: int = 0


class ScaledLinear(nn.Module):
    """A linear head with a factor per class: ``scale_c (w_c . x + b_c)``.

    Args:
        linear: The head; not copied.
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
        """Return the state of a linear head with the same logits."""
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
    """Build a head module with initial weights drawn from ``generator`` on the CPU."""
    with ambient_rng(_branch(generator)):
        module: nn.Module = head.build(num_features, num_classes)
    return module.to(device)


def loaded_head(classifier: Classifier) -> nn.Module:
    """Build the classifier's head module with its weights, on the weights' device."""
    with ambient_rng(torch.Generator()):  # the drawn weights are overwritten
        module: nn.Module = classifier.head.build(
            classifier.num_features, len(classifier.class_counts)
        )
    module.to(classifier.logit_offset.device).load_state_dict(classifier.state)
    return module


def scaled_linear(classifier: Classifier, *, owner: str) -> ScaledLinear:
    """Return the classifier's linear head with a factor per class, all 1.

    Raises:
        ValueError: The head is not linear; the message begins with ``owner``.
    """
    module = loaded_head(classifier)
    if not isinstance(module, nn.Linear):
        raise ValueError(
            f"{owner} needs the head 'linear'; received '{classifier.head.name}'; set "
            "classify.head=linear"
        )
    return ScaledLinear(module)


def class_balanced_draws(labels: Tensor, *, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw sample indices ``[num_draws]`` with replacement, uniformly over classes.

    Indices are drawn on the CPU on every device, so that one generator gives the same indices.

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
    """Draw the indices of ``epochs`` passes over all samples, each a random permutation.

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
    """Train a head on pre-drawn samples, and return the head in evaluation mode.

    See `HeadTrainingSpec` for the arguments and `train_job` for the training.
    """
    job = HeadTrainingSpec(
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


def train_job(job: HeadTrainingSpec, *, features: Tensor, labels: Tensor) -> nn.Module:
    """Train one head on cached features, and return the head in evaluation mode.

    Args:
        job: Head and training settings.
        features: ``[N, D]``.
        labels: ``[N]`` int64.

    Raises:
        ArithmeticError: A trained weight is NaN or infinite, because the learning rate is too
            large.
    """
    job = with_rate(job, features)
    generator = torch.Generator(features.device).manual_seed(job.seed)
    with ambient_rng(generator):  # dropout draws from torch's global generator
        _take_steps(job, features, labels)
    if not all(bool(p.isfinite().all()) for p in job.module.parameters() if p.requires_grad):
        raise diverged(job.lr)
    return job.module.eval()


def with_rate(job: HeadTrainingSpec, features: Tensor) -> HeadTrainingSpec:
    """Return the job with the learning rate scaled to these features.

    The rate of class factors stays the same, because they multiply logits, not features.
    """
    scaled = job.scaled and not isinstance(job.module, ScaledLinear)
    factor = rate_factor(job.module, features) if scaled else 1.0
    return job._replace(lr=job.lr * factor, scaled=False)


def _take_steps(job: HeadTrainingSpec, features: Tensor, labels: Tensor) -> None:
    """Take all SGD steps, in place."""
    job.module.train()
    objective = job.objective or cross_entropy
    inputs = features.to(torch.promote_types(features.dtype, torch.float32))
    trained = [parameter for parameter in job.module.parameters() if parameter.requires_grad]
    slowed = {id(parameter) for parameter in job.slow}
    peaks = job.lr, job.lr * job.slow_factor
    parts = [[p for p in trained if (id(p) in slowed) is slow] for slow in (False, True)]
    optimizer = LeanSGD(
        [{"params": part, "lr": peak} for part, peak in zip(parts, peaks, strict=True)],
        momentum=job.momentum,
        weight_decay=job.weight_decay,
    )
    draws = job.draws.to(features.device)
    batches = draws.split(job.batch_size) if len(draws) else ()
    for step, batch in enumerate(batches):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * half_cosine(step, len(batches))
        logits = job.module(inputs[batch]).to(inputs.dtype)
        loss = objective(logits, labels[batch], batch)
        for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad()


def cross_entropy(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Return the mean cross-entropy of a batch, the default objective."""
    return nn.functional.cross_entropy(logits, labels)


def half_cosine(step: int, steps: int) -> float:
    """Return a step's factor of the initial learning rate, falling from 1 to nearly 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def diverged(lr: float) -> ArithmeticError:
    """Return the error for a head whose weights are not finite."""
    return ArithmeticError(
        f"training the head with lr {lr} produced weights that are not finite; try a smaller lr"
    )


def head_state(module: nn.Module) -> dict[str, Tensor]:
    """Return detached copies of a module's weights and buffers, to store in an artifact."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _branch(generator: torch.Generator) -> torch.Generator:
    """Return a new generator seeded by one draw from ``generator``."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator().manual_seed(seed)
