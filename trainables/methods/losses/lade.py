"""Label distribution disentangling (LADE)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field

from trainables.functional.class_weights import class_prior, full_precision
from trainables.methods.losses import Loss
from trainables.methods.losses.balanced_softmax import BalancedSoftmax
from trainables.methods.method import Range

TINY = 1e-9  # added inside logarithms, as in the reference code
NO_SAMPLE = 1e-8  # added to a class's number of samples in the batch, as in the reference code


class LADE(Loss):
    """Balanced softmax plus a Donsker-Varadhan bound that removes the training prior from logits.

    ``loss = mean_i CE(z_i + log pi, y_i) + weight * sum_c pi_c (lambda S_c^2 + S_c - P_c)``. For
    each class c, ``P_c`` is the mean logit of the samples of class c in the batch, and
    ``S_c = log mean_i exp(z_ic - log pi_c - log C)`` is over all samples, reweighted to a uniform
    prior. The second term is the regularized Donsker-Varadhan bound of the mutual information
    between sample and class. Predictions use the logits without the prior.

    Args:
        weight: Weight of the bound, >= 0; 0 is balanced softmax. Default 0.1.
        regularizer: lambda, >= 0; penalizes ``S_c^2``. Default 0.1.

    Shapes:
        logits ``[B, C]``, labels ``[B]`` int64, class_counts ``[C]`` -> scalar.

    Lower is better; may be negative. A class without samples in the batch has ``P_c = 0``; a class
    without training samples has weight ``pi_c = 0``. With several workers, the bound is the mean of
    the workers' bounds.

    Source:
        Hong et al. 2021, "Disentangling Label Distribution for Long-tailed Visual Recognition",
        arXiv:2012.00321; the sum of both terms and the defaults are those of shijxcs/LIFT,
        utils/losses.py.

    Example:
        >>> LADE(weight=0.0)(  # balanced softmax: -log(3 / 4)
        ...     logits=torch.zeros(1, 2),
        ...     labels=torch.tensor([0]),
        ...     class_counts=torch.tensor([3, 1]),
        ... )
        tensor(0.2877)
    """

    weight: Annotated[float, Field(ge=0, le=10), Range(0.01, 1.0, log=True)] = 0.1
    regularizer: Annotated[float, Field(ge=0, le=10), Range(0.01, 1.0, log=True)] = 0.1

    def __call__(
        self, *, logits: torch.Tensor, labels: torch.Tensor, class_counts: torch.Tensor
    ) -> torch.Tensor:
        logits = full_precision(logits)
        prior = class_prior(class_counts)
        classification = BalancedSoftmax()(logits=logits, labels=labels, class_counts=class_counts)
        bound = self._bound(logits, labels, torch.log(prior + TINY).to(logits))
        return classification - self.weight * (prior.to(logits) * bound).sum()

    def _bound(
        self, logits: torch.Tensor, labels: torch.Tensor, log_prior: torch.Tensor
    ) -> torch.Tensor:
        """Return the Donsker-Varadhan bound of each class ``[C]``."""
        samples, classes = logits.shape
        # a comparison instead of one_hot, which synchronizes to validate the labels
        member = (labels[:, None] == torch.arange(classes, device=labels.device)).to(logits)
        first = (member * logits).sum(0) / (member.sum(0) + NO_SAMPLE)
        uniform = logits - log_prior + math.log(1 / classes + TINY)
        second = uniform.logsumexp(0) - math.log(samples)
        return first - second - self.regularizer * second.square()
