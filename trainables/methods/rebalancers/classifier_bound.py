from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.rebalancers import BalancedTraining, Rebalancer
from trainables.methods.rebalancers.crt import CRT

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class ClassifierBound(BalancedTraining, Rebalancer):
    """Upper bound: a new head that saw the images which the long tail took away (oracle).

    `crt` on the training images together with the known images of the pool, with their true
    labels: these are the training images that the long-tailed profile left out. It says how good a
    head this trunk allows; what is missing above it is the trunk's part.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: As in `crt`.
        epochs: Passes over all these images, >= 0; 10 as in `crt`.
        lr: First learning rate, > 0; as in `crt`.
        batch_size: Samples per step, >= 1; as in `crt`.
        weight_decay: As in `crt`.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64, pool_features [P, D], pool_labels
        [P] int64 (known classes 0 to C - 1, others are left out). Returns a classifier with new
        weights and no logit offset, marked as an oracle: promotion refuses it.

    How close to balance the classes come depends on the stream (``data.stream.known``).

    Source:
        Zhang et al. 2021, "Distribution Alignment: A Unified Framework for Long-tail Visual
        Recognition", arXiv 2103.16370, figure 1 (a head retrained on balanced data over a frozen
        trunk bounds what two stages can reach).

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> zeros, counts = torch.zeros(2), torch.tensor([2, 1])
        >>> trained = Classifier(Head.parse("linear"), 1, {}, zeros, counts, zeros[:1])
        >>> ClassifierBound(epochs=1)(
        ...     classifier=trained,
        ...     features=torch.tensor([[-1.0], [-1.0], [1.0]]),
        ...     labels=torch.tensor([0, 0, 1]),
        ...     pool_features=torch.tensor([[1.0], [5.0]]),
        ...     pool_labels=torch.tensor([1, 2]),
        ...     generator=torch.Generator().manual_seed(0),
        ... ).oracle
        True
    """

    oracle: ClassVar[bool] = True

    epochs: Annotated[int, Field(ge=0), Range(5, 30)] = 10

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        pool_features: torch.Tensor,
        pool_labels: torch.Tensor,
        generator: torch.Generator,
    ) -> Classifier:
        known = (pool_labels >= 0) & (pool_labels < len(classifier.class_counts))
        retrained = CRT(
            draws=self.draws,
            loss=self.loss,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
        )(
            classifier=classifier,
            features=torch.cat([features, pool_features[known].to(features)]),
            labels=torch.cat([labels, pool_labels[known]]),
            generator=generator,
        )
        return retrained._replace(oracle=True)
