"""Class weights and priors from class counts, and per-sample losses in full precision.

A class without training samples is treated as the rarest class with samples and does not change the
weights of the others. Weights and priors are float64; the caller casts them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Cast to float32, leaving float64 as it is, because a softmax in bf16 loses two digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def filled_counts(class_counts: torch.Tensor) -> torch.Tensor:
    """Return class counts in float64, with the smallest nonzero count for absent classes.

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
    # filled on the device, because a copy from the host would synchronize with the GPU
    beta_less_one = torch.full((), beta - 1.0, dtype=torch.float64, device=counts.device)
    log_beta = torch.log1p(beta_less_one)
    return -torch.expm1(counts.double() * log_beta) / (1.0 - beta)


def effective_number_weights(class_counts: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return class weights inversely proportional to the effective number, with mean one.

    Args:
        class_counts: Training samples per class ``[C]``.
        beta: In [0, 1); 0 gives equal weights, values near 1 approach the inverse count.

    Returns:
        float64 ``[C]``, with mean one over the classes that have samples.

    Example:
        >>> effective_number_weights(torch.tensor([1, 2]), beta=0.5)
        tensor([1.2000, 0.8000], dtype=torch.float64)
    """
    return mean_one(1.0 / effective_number(filled_counts(class_counts), beta=beta), class_counts)


def inverse_power_weights(class_counts: torch.Tensor, *, power: float) -> torch.Tensor:
    """Return class weights ``n_c^(-power)`` with mean one over the classes that have samples.

    Example:
        >>> inverse_power_weights(torch.tensor([3, 1]), power=1.0)
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    # divided by the largest count first, because n^-power of large counts underflows in the sum
    counts = filled_counts(class_counts)
    return mean_one((counts / counts.max()).pow(-power), class_counts)


def mean_one(weights: torch.Tensor, class_counts: torch.Tensor) -> torch.Tensor:
    """Rescale class weights so that their mean over the classes that have samples is one."""
    present = (class_counts > 0).to(weights)
    total = (weights * present).sum()
    return weights * torch.where(total > 0, present.sum() / total, torch.ones_like(total))


def class_prior(class_counts: torch.Tensor) -> torch.Tensor:
    """Return the class prior ``n_c / N`` in float64; uniform without any sample.

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
    """Return ``sum_i w_{y_i} v_i / sum_i w_{y_i}``, or the unweighted mean without weights.

    The result is zero if every weight in the batch is zero.

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
    """Return the cross-entropy of each sample ``[B]``, in float32 or better."""
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
    # exp of a log-sigmoid has a finite value and gradient at pt = 1, (1 - pt)^gamma has not
    modulator = torch.exp(gamma * torch.nn.functional.logsigmoid(-sign * logits))
    return -(modulator * log_correct).sum(dim=1)


def begun(start: float | None, progress: float) -> bool:
    """Say whether the training progress has reached ``start``; False for ``None``.

    Example:
        >>> begun(0.8, 160 / 200), begun(0.8, 159 / 200), begun(None, 1.0)
        (True, False, False)
    """
    # 1e-9, because the ratio of two step counts may miss `start` by a rounding error
    return start is not None and progress >= start - 1e-9


def smoothed_cross_entropy_each(
    logits: torch.Tensor, labels: torch.Tensor, epsilon: torch.Tensor, *, others: bool
) -> torch.Tensor:
    """Return per sample ``[B]`` the cross-entropy to a smoothed target.

    Args:
        logits: ``[B, C]``.
        labels: ``[B]`` int64.
        epsilon: Smoothed mass per sample ``[B]``.
        others: Spread the smoothed mass over the C - 1 other classes instead of all C.

    Example:
        >>> smoothed_cross_entropy_each(
        ...     torch.tensor([[20.0, 0.0]]), torch.tensor([0]), torch.tensor([0.1]), others=True
        ... )
        tensor([2.])
    """
    surprise = -torch.log_softmax(full_precision(logits), dim=1)
    of_label = surprise.gather(1, labels[:, None])[:, 0]
    classes = logits.shape[1]
    # with a single class there is no other class: its surprise is 0, and so is the loss
    of_others = (surprise.sum(dim=1) - of_label) / max(classes - 1, 1)
    of_spread = of_others if others else surprise.mean(dim=1)
    epsilon = epsilon.to(surprise)
    return (1 - epsilon) * of_label + epsilon * of_spread


def sample_probability(
    labels: torch.Tensor, class_probability: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the probability of each sample ``[N]``, float64, summing to one.

    Args:
        labels: ``[N]`` int64, >= 0; label values may be skipped.
        class_probability: Maps the counts of the classes that occur ``[K]`` (float64, > 0) to the
            probabilities of these classes, up to a factor.

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


def without_prior(
    logits: torch.Tensor, class_counts: torch.Tensor | None, *, tau: float, method: str
) -> torch.Tensor:
    """Return logits ``[B, C]`` in full precision, minus ``tau`` times the log class prior.

    Args:
        logits: Logits ``[B, C]``.
        class_counts: Training images per class ``[C]``; needed for ``tau`` above 0.
        tau: Factor of the log prior; 0 removes nothing.
        method: Who asks, for the message.

    Raises:
        ValueError: ``tau`` is above 0 and ``class_counts`` is missing.

    Example:
        >>> without_prior(torch.zeros(1, 2), torch.tensor([3, 1]), tau=1.0, method="x").exp()
        tensor([[1.3333, 4.0000]])
    """
    scores = full_precision(logits)
    if not tau:
        return scores
    if class_counts is None:
        raise ValueError(f"{method} with prior_tau > 0 needs class_counts")
    return scores - tau * class_prior(filled_counts(class_counts)).log().to(scores)
