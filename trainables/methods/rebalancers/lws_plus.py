from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.rebalancers import FactorRebalancing, Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.head_training import HeadJob


class LWSPlus(FactorRebalancing, Rebalancer):
    """Learns one factor per class while the head itself follows slowly, every class drawn alike.

    As `lws`, ``z_c = s_c (w_c . x + b_c)``, with s from 1 at ``lr`` and w and b at
    ``head_lr_factor * lr``. With the loss ``label_aware_smoothing`` and a trunk whose batch norm
    was shifted (``extract.batchnorm: shifted``) it is the second stage of MiSLAS.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: What is minimised; `label_aware_smoothing` in the paper. Any that needs logits,
            labels, class counts and progress alone.
        epochs: Passes, >= 0; 10 in the paper. 0 changes nothing.
        lr: First learning rate, > 0; 0.1 in the reference code.
        head_lr_factor: Share of the learning rate that the head's own weights get, in [0, 1]; 0 is
            `lws`. The reference code has 0.5 for CIFAR-10 with factor 100, 0.2 for its milder tails
            and CIFAR-100 with 100, 0.1 for the rest.
        batch_size: Samples per step, >= 1; 128 in the reference code.
        weight_decay: L2 penalty on factors and weights, >= 0; 2e-4 in the reference code.

    Shapes:
        classifier: linear head. features [N, D], labels [N] int64. Returns a linear head with the
        factors multiplied in, and no logit offset.

    An absent class is never drawn as a target.

    Raises:
        ValueError: The head is not linear.
        ArithmeticError: The training did not converge to finite weights.

    Source:
        Zhong et al. 2021, "Improving Calibration for Long-Tailed Recognition" (MiSLAS),
        arXiv 2104.00466, section 3.3; dvlab-research/MiSLAS train_stage2.py, which augments the
        images and shifts batch norm while the head trains: here the features are fixed.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> state = {"weight": torch.tensor([[-1.0], [1.0]]), "bias": torch.zeros(2)}
        >>> zeros = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 1, state, zeros, torch.ones(2), zeros[:1])
        >>> scaled = LWSPlus()(
        ...     classifier=trained,
        ...     features=torch.tensor([[-1.0], [1.0]]),
        ...     labels=torch.tensor([0, 1]),
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> bool((scaled.state["weight"].abs() > 1).all())  # right already: gets surer
        True
    """

    epochs: Annotated[int, Field(ge=0), Range(2, 20)] = 10
    head_lr_factor: Annotated[float, Field(ge=0, le=1), Range(0.05, 0.5, log=True)] = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 2e-4

    def job(
        self, *, classifier: Classifier, labels: torch.Tensor, generator: torch.Generator
    ) -> HeadJob:
        """Return the training of one factor per class and, slowly, of the head."""
        from trainables.head_training import scaled_linear

        scaled = scaled_linear(classifier, owner="rebalancers/lws_plus")
        return self.balanced_job(
            scaled,
            classifier=classifier,
            labels=labels,
            generator=generator,
            slow=scaled.linear.parameters(),
            slow_factor=self.head_lr_factor,
        )
