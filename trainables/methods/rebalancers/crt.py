from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.rebalancers import HeadRebalancing, Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier
    from trainables.head_training import HeadJob


class CRT(HeadRebalancing, Rebalancer):
    """Trains a new head of the same kind on frozen features, every class drawn alike (cRT).

    The training is that of `BalancedTraining`: SGD with momentum 0.9, half-cosine learning rate.
    With draws of samples as they come it is what cRT is compared with in ablations.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: What is minimised; cross-entropy in the paper. Any that needs logits, labels, class
            counts and progress alone.
        epochs: Passes, >= 0; 10 in the paper for ImageNet-LT. 0 gives an untrained head.
        lr: First learning rate, > 0. 0.1 and batches of 128 are BagofTricks-LT's for CIFAR.
        batch_size: Samples per step, >= 1.
        weight_decay: L2 penalty on weights and bias, >= 0; 5e-4 in the reference code.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64. Returns a classifier with new
        weights and no logit offset. Augmentation plays no part: the features are cached.

    An absent class is never drawn as a target, so it ends with a small logit.

    Raises:
        ArithmeticError: The training did not converge to finite weights.

    Source:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition",
        arXiv 1910.09217, section 4.1; facebookresearch/classifier-balancing draws class by class
        in cycles (n_max C draws per epoch), here the draws are independent and N per epoch.

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

    epochs: Annotated[int, Field(ge=0), Range(5, 30)] = 10
    weight_decay: Annotated[float, Field(ge=0), Range(1e-5, 1e-2, log=True)] = 5e-4

    def job(
        self, *, classifier: Classifier, labels: torch.Tensor, generator: torch.Generator
    ) -> HeadJob:
        """Return the training of a fresh head."""
        from trainables.head_training import new_head

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
        from trainables.head_training import head_state

        zeros = torch.zeros_like(classifier.logit_offset)
        return classifier._replace(state=head_state(module), logit_offset=zeros)
