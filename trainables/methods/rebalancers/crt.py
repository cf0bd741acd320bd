"""Classifier re-training (cRT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field

from trainables.features.balanced_training import HeadRebalancing
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.features.head_training import HeadTrainingSpec


class CRT(HeadRebalancing, Rebalancer):
    """Classifier re-training (cRT): a new head, trained class-balanced on frozen features.

    The new head is of the same kind. The optimizer is SGD with momentum 0.9 and a half-cosine
    learning rate (`BalancedTraining`). ``draws: instance_balanced`` is the baseline of cRT in
    ablations.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: Training loss that needs only logits, labels, class counts and progress;
            cross-entropy in the paper.
        epochs: Number of epochs, >= 0; 10 in the paper for ImageNet-LT. 0 gives an untrained head.
        lr: Initial learning rate, > 0; 0.1 with batches of 128, as BagofTricks-LT for CIFAR.
        rate: ``scaled`` lowers the rate for features of large norm; ``fixed`` uses ``lr``, as in
            the paper.
        batch_size: Samples per step, >= 1.
        weight_decay: L2 penalty on weights and bias, >= 0; 5e-4 in the reference code.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with new
        weights and no logit offset. The features are cached, so there is no augmentation.

    An absent class is never a target, so its logits become small.

    Raises:
        ArithmeticError: The trained weights are not finite.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv 1910.09217, section 4.1; facebookresearch/classifier-balancing cycles through the
        classes (n_max C draws per epoch), while here N independent draws are an epoch.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> zeros, counts = torch.zeros(2), torch.tensor([9, 1])
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, counts, zeros[:1])
        >>> labels = torch.tensor([0] * 9 + [1])
        >>> features = 2.0 * labels[:, None] - 1
        >>> draws = torch.Generator().manual_seed(0)
        >>> rebalance = CRT(epochs=30, batch_size=10)
        >>> new = rebalance(classifier=trained, features=features, labels=labels, generator=draws)
        >>> (features @ new.state["weight"].T + new.state["bias"]).argmax(1).tolist()
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    """

    from_features: ClassVar[bool] = True

    epochs: Annotated[int, Field(ge=0), Range(5, 30)] = 10
    weight_decay: Annotated[float, Field(ge=0), Range(1e-5, 1e-2, log=True)] = 5e-4

    def job(
        self, *, classifier: Classifier, labels: torch.Tensor, generator: torch.Generator
    ) -> HeadTrainingSpec:
        """Return the specification to train a new head."""
        from trainables.features.head_training import new_head

        module = new_head(
            classifier.head,
            num_features=classifier.num_features,
            num_classes=len(classifier.class_counts),
            generator=generator,
            device=labels.device,
        )
        return self.balanced_job(module, classifier=classifier, labels=labels, generator=generator)

    def finished(self, classifier: Classifier, module: torch.nn.Module) -> Classifier:
        """Return the classifier with the new head."""
        from trainables.features.head_training import head_state

        zeros = torch.zeros_like(classifier.logit_offset)
        return classifier._replace(state=head_state(module), logit_offset=zeros)
