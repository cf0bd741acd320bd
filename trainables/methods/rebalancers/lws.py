from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.rebalancers import FactorRebalancing, Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.head_training import HeadJob


class LWS(FactorRebalancing, Rebalancer):
    """Learns one factor per class for a frozen head, every class drawn alike.

    ``z_c = s_c (w_c . x + b_c)``; only s trains, from 1, as `BalancedTraining` says. `lws_plus`
    lets w and b follow slowly.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: What is minimised; cross-entropy in the paper. Any that needs logits, labels, class
            counts and progress alone.
        epochs: Passes, >= 0; 5 in the reference code for CIFAR-sized data. 0 changes nothing.
        lr: First learning rate, > 0. 0.1 and batches of 128 are BagofTricks-LT's for CIFAR.
        batch_size: Samples per step, >= 1.
        weight_decay: L2 penalty on the factors, >= 0; 5e-4 in the reference code. It pulls the
            factors towards 0, not 1.

    Shapes:
        classifier: linear head. features [N, D], labels [N] int64. Returns a linear head with the
        factors multiplied in, and no logit offset.

    An absent class is never drawn as a target.

    Raises:
        ValueError: The head is not linear.
        ArithmeticError: The training did not converge to finite weights.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv 1910.09217, eq. (6) (learnable weight scaling); facebookresearch/classifier-balancing
        scales bias and weight alike, as here.

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
        >>> bool((scaled.state["weight"].abs() > 1).all())  # right already: gets surer
        True
    """

    epochs: Annotated[int, Field(ge=0), Range(2, 20)] = 5

    def job(
        self, *, classifier: Classifier, labels: torch.Tensor, generator: torch.Generator
    ) -> HeadJob:
        """Return the training of one factor per class on the frozen head."""
        from trainables.head_training import scaled_linear

        scaled = scaled_linear(classifier, owner="rebalancers/lws")
        scaled.linear.requires_grad_(requires_grad=False)
        return self.balanced_job(scaled, classifier=classifier, labels=labels, generator=generator)
