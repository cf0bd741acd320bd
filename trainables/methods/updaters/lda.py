"""Linear discriminant analysis that takes new classes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from trainables.methods.method import Range
from trainables.methods.rebalancers import lda
from trainables.methods.updaters import Updater

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

LOOKED_UP = {"heads": ("linear",)}


class LDA(Updater):
    """Linear discriminant analysis of known and new classes under one covariance.

    The result is that of the rebalancer `lda` on labelled and pseudo-labelled images together.
    Means of known classes move only by pseudo-labels of known classes. Pseudo-labels count by their
    weights, above 0. No learning rate, no epochs.

    Args:
        shrinkage: In (0, 1); ``null`` chooses it; see the rebalancer `lda`.
        unbiased: Correct for the noise of class means.
        prior: Factor of the log class frequency.

    Shapes:
        classifier: any head, which is replaced. features [M, D], labels [M] int64, weights [M],
        class_counts [C+K], groups [M] int64: images that are left out together. Returns a linear
        head.

    The trunk stays as it is (``update.mode: head``), and all labelled images count
    (``update.exemplars_per_class: null``).

    Source:
        Hayes and Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant
        Analysis", arXiv 1909.01520.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> old = Classifier(
        ...     Head.parse("linear"), 1, {}, torch.zeros(1), torch.tensor([3]), torch.zeros(1)
        ... )
        >>> grown = LDA()(
        ...     classifier=old,
        ...     features=torch.tensor([[0.0], [1.0], [2.0], [5.0]]),
        ...     labels=torch.tensor([0, 0, 0, 1]),
        ...     weights=torch.ones(4),
        ...     class_counts=torch.tensor([3, 1]),
        ... )
        >>> logits = torch.tensor([[2.9], [3.1]]) @ grown.state["weight"].T + grown.state["bias"]
        >>> logits.argmax(1).tolist()  # the means are 1 and 5
        [0, 1]
    """

    shrinkage: Annotated[float, Field(gt=0, lt=1)] | None = None
    unbiased: bool = True
    prior: Annotated[float, Field(ge=0, le=1), Range(0.0, 1.0)] = 0.0

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        class_counts: torch.Tensor,
        groups: torch.Tensor | None = None,
    ) -> Classifier:
        method = lda.LDA(**self.model_dump())
        grown = classifier._replace(class_counts=class_counts)
        fit = method.fit(
            classifier=grown, features=features, labels=labels, weights=weights, groups=groups
        )
        return fit.classifier
