"""Learnable weight scaling (LWS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.features.balanced_training import FactorRebalancing
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.features.head_training import HeadTrainingSpec


class LWS(FactorRebalancing, Rebalancer):
    """Learnable weight scaling (LWS): one factor per class of a frozen head.

    ``z_c = s_c (w_c . x + b_c)``; only s, initially 1, is trained, on class-balanced samples
    (`BalancedTraining`). `lws_plus` also trains w and b with a smaller learning rate.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: Training loss that needs only logits, labels, class counts and progress;
            cross-entropy in the paper.
        epochs: Number of epochs, >= 0; 5 in the reference code for data of CIFAR's size. 0 changes
            nothing.
        lr: Initial learning rate, > 0; 0.1 with batches of 128, as BagofTricks-LT for CIFAR.
        rate: Without effect on a head with class factors.
        batch_size: Samples per step, >= 1.
        weight_decay: L2 penalty on the factors (towards 0, not 1), >= 0; 5e-4 in the reference
            code.

    Shapes:
        classifier: linear head. features [N, D], labels [N] int64. Returns a linear head with the
        factors multiplied in, and no logit offset.

    An absent class is never a target.

    Raises:
        ValueError: The head is not linear.
        ArithmeticError: The trained weights are not finite.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv 1910.09217, eq. (6) (learnable weight scaling); as in
        facebookresearch/classifier-balancing, the factor scales both weight and bias.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> state = {"weight": torch.tensor([[-1.0], [1.0]]), "bias": torch.zeros(2)}
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 1, state, zeros, torch.ones(2), zeros[:1])
        >>> scaled = LWS()(
        ...     classifier=trained,
        ...     features=torch.tensor([[-1.0], [1.0]]),
        ...     labels=torch.tensor([0, 1]),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool((scaled.state["weight"].abs() > 1).all())  # the loss decreases with larger factors
        True
    """

    epochs: Annotated[int, Field(ge=0), Range(2, 20)] = 5

    def job(
        self, *, classifier: Classifier, labels: torch.Tensor, generator: torch.Generator
    ) -> HeadTrainingSpec:
        """Return the specification to train one factor per class on the frozen head."""
        from trainables.features.head_training import scaled_linear

        scaled = scaled_linear(classifier, owner="rebalancers/lws")
        scaled.linear.requires_grad_(requires_grad=False)
        return self.balanced_job(scaled, classifier=classifier, labels=labels, generator=generator)
