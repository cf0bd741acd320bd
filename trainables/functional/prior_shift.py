"""Label shift between training and test: shifted test priors, correction, weighted accuracy."""

from __future__ import annotations

import torch

from trainables.functional.class_weights import class_prior, filled_counts

FACTORS = (50.0, 25.0, 10.0, 5.0, 2.0)  # of the test-agnostic protocol of LADE and SADE
STRENGTHS = tuple(step / 20 for step in range(-20, 41))  # -1 to 2


def shifted_prior(class_counts: torch.Tensor, factor: float, *, backward: bool) -> torch.Tensor:
    """Return a long-tailed class prior of the test set ``[C]``, float64.

    ``prior_c ~ factor^(-r_c / (C - 1))``, where r_c is the rank of class c by its number of
    training images: rank 0 is the most frequent class (forward) or the rarest (backward). Classes
    of equal size are ranked by their index.

    Example:
        >>> shifted_prior(torch.tensor([9, 3]), 4.0, backward=False).tolist()
        [0.8, 0.2]
        >>> shifted_prior(torch.tensor([9, 3]), 4.0, backward=True).tolist()
        [0.2, 0.8]
    """
    order = class_counts.argsort(descending=True, stable=True)
    rank = torch.empty(len(order), dtype=torch.float64)
    rank[order] = torch.arange(len(order), dtype=torch.float64)
    last = max(len(order) - 1, 1)
    prior = torch.as_tensor(factor, dtype=torch.float64) ** (
        -(last - rank if backward else rank) / last
    )
    return prior / prior.sum()


def exchange_prior(
    logits: torch.Tensor, class_counts: torch.Tensor, prior: torch.Tensor, *, strength: float = 1.0
) -> torch.Tensor:
    """Replace the training prior in the logits by ``prior``: ``z - strength log pi + log prior``.

    A class without training images counts as the rarest class that has some.

    Args:
        logits: ``[N, C]``; the result is float64.
        class_counts: Training images ``[C]``.
        prior: Class prior of the test set ``[C]``.
        strength: Factor of the training prior in the logits; see `held_prior_strength`.

    Source:
        Hong et al. 2021 (LADE), arXiv 2012.00321, section 3.2 (post-compensated softmax).
    """
    held = class_prior(filled_counts(class_counts)).log()
    return logits.double() - strength * held + prior.log()


def accuracy_under(prior: torch.Tensor, right: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the accuracy under a class prior: the mean of class accuracies, weighted by the prior.

    This is the expected accuracy of resampling the same images by the prior, without sampling
    noise. Classes without samples are left out and the prior of the others is rescaled. The result
    is NaN without any sample.

    Args:
        prior: ``[C]``.
        right: Mask of correct predictions, bool ``[N]``.
        labels: ``[N]`` int64.
    """
    totals = torch.bincount(labels, minlength=len(prior))
    correct = torch.bincount(labels, weights=right.double(), minlength=len(prior))
    occurs = totals > 0
    weights = prior * occurs
    return float((weights * correct / totals.clamp(min=1)).sum() / weights.sum())


def held_prior_strength(
    logits: torch.Tensor, labels: torch.Tensor, class_counts: torch.Tensor
) -> float:
    """Return the factor s of the training prior in the logits: 1 fully contained, 0 not at all.

    ``z - s log pi`` has the smallest class-balanced cross-entropy, which is convex in s; s is
    searched in -1 to 2 in steps of 0.05. A classifier trained without rebalancing has about 1, a
    rebalanced classifier about 0. The result is 0 where s is undetermined (no samples, or equal
    counts).

    Args:
        logits: ``[N, C]`` of held-out samples that are in neither the training nor the test set.
        labels: ``[N]`` int64.
        class_counts: Training images ``[C]``.
    """
    log_prior = class_prior(filled_counts(class_counts)).log()
    if not len(labels) or bool((log_prior == log_prior[0]).all()):
        return 0.0
    totals = torch.bincount(labels, minlength=len(log_prior)).double()
    weights = 1.0 / totals[labels]
    rows = torch.arange(len(labels))
    losses = [
        -(weights * (logits.double() - s * log_prior).log_softmax(1)[rows, labels]).sum()
        for s in STRENGTHS
    ]
    return STRENGTHS[int(torch.stack(losses).argmin())]
