"""Numbers derived from class counts, shared by losses and samplers.

One rule for a class without training samples: it is treated as the rarest class that has some, and
it changes nothing for the others. All results are float64; the caller casts them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Return float32, or float64 where it was float64: softmax in bf16 loses two digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def filled_counts(class_counts: torch.Tensor) -> torch.Tensor:
    """Return class counts in float64, an absent class counted as the rarest present one.

    Example:
        >>> filled_counts(torch.tensor([9, 0, 3]))
        tensor([9., 3., 3.], dtype=torch.float64)
    """
    counts = class_counts.double()
    present = torch.where(counts > 0, counts, torch.full_like(counts, torch.inf))
    rarest = present.min()
    rarest = torch.where(torch.isinf(rarest), torch.ones_like(rarest), rarest)
    return torch.where(counts > 0, counts, rarest)


def effective_number(counts: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return the effective number of samples ``(1 - beta^n) / (1 - beta)``, for n > 0.

    Example:
        >>> effective_number(torch.tensor([1.0, 2.0]), beta=0.5).tolist()
        [1.0, 1.5]
    """
    # expm1 and log1p keep the digits that 1 - beta^n loses when beta is near one.
    # filled where it is needed: a number that is copied to a GPU waits for it
    beta_less_one = torch.full((), beta - 1.0, dtype=torch.float64, device=counts.device)
    log_beta = torch.log1p(beta_less_one)
    return -torch.expm1(counts.double() * log_beta) / (1.0 - beta)


def effective_number_weights(class_counts: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return class weights in inverse proportion to the effective number, mean one.

    Args:
        class_counts: Training samples per class ``[C]``.
        beta: In [0, 1); 0 weighs all classes alike, near 1 is the inverse count.

    Returns:
        float64 ``[C]``, with mean one over the classes that have samples.

    Example:
        >>> effective_number_weights(torch.tensor([1, 2]), beta=0.5)
        tensor([1.2000, 0.8000], dtype=torch.float64)
    """
    return mean_one(1.0 / effective_number(filled_counts(class_counts), beta=beta), class_counts)


def inverse_power_weights(class_counts: torch.Tensor, *, power: float) -> torch.Tensor:
    """Return class weights ``n_c^(-power)``, mean one over the classes that have samples.

    Example:
        >>> inverse_power_weights(torch.tensor([3, 1]), power=1.0)
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    # Divided by the largest count first: n^-power of large counts would lose range in the sum.
    counts = filled_counts(class_counts)
    return mean_one((counts / counts.max()).pow(-power), class_counts)


def mean_one(weights: torch.Tensor, class_counts: torch.Tensor) -> torch.Tensor:
    """Rescale class weights so that their mean over the classes that have samples is one."""
    present = (class_counts > 0).to(weights)
    total = (weights * present).sum()
    return weights * torch.where(total > 0, present.sum() / total, torch.ones_like(total))


def class_prior(class_counts: torch.Tensor) -> torch.Tensor:
    """Return ``n_c / N`` in float64; uniform if there are no samples at all.

    Example:
        >>> class_prior(torch.tensor([3, 1, 0])).tolist()
        [0.75, 0.25, 0.0]
    """
    counts = class_counts.double()
    total = counts.sum()
    return torch.where(total > 0, counts / total.clamp(min=1), 1.0 / counts.numel())


def weighted_mean(
    values: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None
) -> torch.Tensor:
    """Return ``sum_i w_{y_i} v_i / sum_i w_{y_i}``, or the plain mean without weights.

    Zero if every weight in the batch is zero.

    Example:
        >>> weighted_mean(
        ...     torch.tensor([1.0, 4.0]), torch.tensor([1, 0]), torch.tensor([1.0, 2.0])
        ... )
        tensor(2.)
    """
    if class_weights is None:
        return values.mean()
    weights = class_weights.to(values)[labels]
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, torch.ones_like(total))


def cross_entropy_each(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every sample ``[B]``, in float32 or better."""
    return torch.nn.functional.cross_entropy(full_precision(logits), labels, reduction="none")


def one_versus_rest_each(
    logits: torch.Tensor, labels: torch.Tensor, *, gamma: float = 0.0
) -> torch.Tensor:
    """Return per sample ``[B]`` the sum over classes of (focal) binary cross-entropies.

    ``sum_k (1 - pt_k)^gamma BCE_k`` with ``pt_k = sigmoid(z_k)`` for the true class and
    ``1 - sigmoid(z_k)`` for the others.

    Example:
        >>> one_versus_rest_each(torch.zeros(1, 2), torch.tensor([0]))  # 2 log 2
        tensor([1.3863])
    """
    logits = full_precision(logits)
    sign = 2.0 * torch.nn.functional.one_hot(labels, logits.shape[1]).to(logits) - 1.0
    log_correct = torch.nn.functional.logsigmoid(sign * logits)
    if gamma == 0:
        return -log_correct.sum(dim=1)
    # exp of a log-sigmoid: finite value and gradient, where (1 - pt)^gamma has none at pt = 1.
    modulator = torch.exp(gamma * torch.nn.functional.logsigmoid(-sign * logits))
    return -(modulator * log_correct).sum(dim=1)


def begun(start: float | None, progress: float) -> bool:
    """Say whether training has come as far as ``start``; never for ``None``.

    Example:
        >>> begun(0.8, 160 / 200), begun(0.8, 159 / 200), begun(None, 1.0)
        (True, False, False)
    """
    # 1e-9: a fraction of steps may miss the fraction it stands for by a rounding error.
    return start is not None and progress >= start - 1e-9


def smoothed_cross_entropy_each(
    logits: torch.Tensor, labels: torch.Tensor, epsilon: torch.Tensor, *, others: bool
) -> torch.Tensor:
    """Return per sample ``[B]`` the cross-entropy to a smoothed target.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` int64.
        epsilon: Smoothed mass per sample ``[B]``.
        others: Spread it over the C - 1 other classes instead of all C.

    Example:
        >>> smoothed_cross_entropy_each(
        ...     torch.tensor([[20.0, 0.0]]), torch.tensor([0]), torch.tensor([0.1]), others=True
        ... )
        tensor([2.])
    """
    surprise = -torch.log_softmax(full_precision(logits), dim=1)
    own = surprise.gather(1, labels[:, None])[:, 0]
    classes = logits.shape[1]
    # With a single class there is no other one: its surprise is 0, and so is the loss.
    elsewhere = (surprise.sum(dim=1) - own) / max(classes - 1, 1)
    spread = elsewhere if others else surprise.mean(dim=1)
    epsilon = epsilon.to(surprise)
    return (1 - epsilon) * own + epsilon * spread


def sample_probability(
    labels: torch.Tensor, class_probability: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return how often each sample is drawn ``[N]``, float64, summing to one.

    Args:
        labels: ``[N]`` int64, >= 0, with gaps or not.
        class_probability: Gets the counts of the classes that occur ``[K]`` (float64, > 0) and
            gives how often each of them is drawn, up to a factor.

    Raises:
        ValueError: There are no labels.

    Example:
        >>> sample_probability(torch.tensor([0, 0, 7]), torch.ones_like).tolist()
        [0.25, 0.25, 0.5]
    """
    if not labels.numel():
        raise ValueError("a sampler needs at least one label; received none")
    counts = torch.bincount(labels).double()
    occurring = counts > 0
    wanted = class_probability(counts[occurring])
    per_sample = torch.zeros_like(counts)
    per_sample[occurring] = wanted / wanted.sum() / counts[occurring]
    return per_sample[labels]
