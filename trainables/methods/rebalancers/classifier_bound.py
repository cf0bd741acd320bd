"""Upper bound of a classifier on the frozen trunk (oracle)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field

from trainables.features.balanced_training import BalancedTraining
from trainables.methods.method import Range
from trainables.methods.rebalancers import Rebalancer
from trainables.methods.rebalancers.crt import CRT

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class ClassifierBound(BalancedTraining, Rebalancer):
    """Upper bound (oracle): a new head trained with the images that the long tail left out.

    Trains by `crt` on the training images and the known images of the pool with their true labels,
    which are the training images that the long-tailed profile left out. The result bounds the
    accuracy of a head on this trunk; a remaining gap is due to the trunk.

    Args:
        draws: ``class_balanced`` or ``instance_balanced`` (every sample once per epoch).
        loss: See `crt`.
        epochs: Number of epochs over all these images, >= 0; 10 as in `crt`.
        lr: Initial learning rate, > 0; see `crt`.
        rate: ``scaled`` or ``fixed``; see `crt`.
        batch_size: Samples per step, >= 1; see `crt`.
        weight_decay: See `crt`.

    Shapes:
        classifier: any head. features [N, D], labels [N] int64, pool_features [P, D], pool_labels
        [P] int64 (known classes 0 to C - 1, others are left out). Returns a classifier with new
        weights and no logit offset, marked as an oracle, which promotion refuses.

    ``data.stream.known`` limits the number of additional images, and with it the balance of the
    classes.

    Source:
        Zhang et al. 2021, "Distribution Alignment: A Unified Framework for Long-tail Visual
        Recognition", arXiv 2103.16370, figure 1 (a head retrained on balanced data with a frozen
        trunk bounds two-stage methods).

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
    extra_views: ClassVar[frozenset[str]] = frozenset({"stream_features"})

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
