"""Learnable weight scaling of MiSLAS (LWS+)."""

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


class LWSPlus(FactorRebalancing, Rebalancer):
    """MiSLAS's LWS+: one factor per class, trained together with the head at a lower learning rate.

    As in `lws`, ``z_c = s_c (w_c . x + b_c)``; s, initially 1, is trained with learning rate ``lr``
    and w, b with ``head_lr_factor * lr``. With the loss ``label_aware_smoothing`` and shifted batch
    norm (``extract.batchnorm: shifted``) this is the classifier training of MiSLAS.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: Training loss that needs only logits, labels, class counts and progress;
            `label_aware_smoothing` in the paper.
        epochs: Number of epochs, >= 0; 10 in the paper. 0 changes nothing.
        lr: Initial learning rate, > 0; 0.1 in the reference code.
        head_lr_factor: Factor of the learning rate of w and b, in [0, 1]; 0 is `lws`. In the
            reference code 0.5 for CIFAR-10 with imbalance factor 100, 0.2 for CIFAR-10 with smaller
            factors and CIFAR-100 with 100, 0.1 otherwise.
        rate: Without effect on a head with class factors.
        batch_size: Samples per step, >= 1; 128 in the reference code.
        weight_decay: L2 penalty on factors and weights, >= 0; 2e-4 in the reference code.

    Shapes:
        classifier: linear head. features [N, D], labels [N] int64. Returns a linear head with the
        factors multiplied in, and no logit offset.

    An absent class is never a target.

    Raises:
        ValueError: The head is not linear.
        ArithmeticError: The trained weights are not finite.

    Source:
        Zhong et al. 2021, "Improving Calibration for Long-Tailed Recognition" (MiSLAS),
        arXiv 2104.00466, section 3.3; dvlab-research/MiSLAS train_stage2.py, which augments the
        images and shifts batch norm while it trains the head; here the features are cached.

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
        >>> bool((scaled.state["weight"].abs() > 1).all())  # the loss decreases with larger factors
        True
    """

    epochs: Annotated[int, Field(ge=0), Range(2, 20)] = 10
    head_lr_factor: Annotated[float, Field(ge=0, le=1), Range(0.05, 0.5, log=True)] = 0.2
    weight_decay: Annotated[float, Field(ge=0)] = 2e-4

    def job(
        self, *, classifier: Classifier, labels: torch.Tensor, generator: torch.Generator
    ) -> HeadTrainingSpec:
        """Return the specification to train one factor per class and the head."""
        from trainables.features.head_training import scaled_linear

        scaled = scaled_linear(classifier, owner="rebalancers/lws_plus")
        return self.balanced_job(
            scaled,
            classifier=classifier,
            labels=labels,
            generator=generator,
            slow=scaled.linear.parameters(),
            slow_factor=self.head_lr_factor,
        )
