"""Test sets whose classes are not equally frequent, by weights instead of another draw."""

from __future__ import annotations

import torch

from trainables.class_weights import class_prior, filled_counts

FACTORS = (50.0, 25.0, 10.0, 5.0, 2.0)  # of the test-agnostic protocol of LADE and SADE
STRENGTHS = tuple(step / 20 for step in range(-20, 41))  # -1 to 2


def shifted_prior(class_counts: torch.Tensor, factor: float, *, backward: bool) -> torch.Tensor:
    """Return a long-tailed class prior of the test ``[C]``, float64.

    ``prior_c ~ factor^(-r_c / (C - 1))``, with r the rank of a class by its training images, from
    0: the most frequent (forward: the test is as the training) or the rarest (backward). Classes of
    equal size are ranked by their number.

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
    """Return ``z - strength log pi_train + log prior``, float64: the prior of the test, put in.

    An absent class counts as the rarest present one.

    Args:
        logits: ``[N, C]``.
        class_counts: Training images ``[C]``.
        prior: Class prior of the test ``[C]``.
        strength: How much of the training prior the logits hold; see `held_prior_strength`.

    Source:
        Hong et al. 2021 (LADE), arXiv 2012.00321, section 3.2 (post-compensated softmax).
    """
    held = class_prior(filled_counts(class_counts)).log()
    return logits.double() - strength * held + prior.log()


def accuracy_under(prior: torch.Tensor, right: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the accuracy if classes had this prior: each class's accuracy, weighted by it.

    The expectation over draws from the same images, without their noise. Classes that no sample
    has are left out, and the prior of the others is rescaled; NaN without any sample.

    Args:
        prior: ``[C]``.
        right: Which predictions are right, bool ``[N]``.
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
    """Return how much of the training prior the logits hold: 1 all of it, 0 none.

    The s in -1 to 2 (in steps of 0.05) whose ``z - s log pi`` predicts samples best, every class
    weighing alike: a cross-entropy that is convex in s. A classifier trained on the data as they
    are has about 1, one that was rebalanced about 0. 0 where it can't be told (no samples, equal
    counts).

    Args:
        logits: ``[N, C]`` on samples that are neither for training nor for the test.
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
