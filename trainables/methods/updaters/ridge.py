"""Ridge regression that takes new classes in exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from trainables.closed_form.ridge_classifier import RidgeSettings, fit_ridge, with_ridge
from trainables.closed_form.statistics import samples
from trainables.methods.updaters import Updater

if TYPE_CHECKING:
    from trainables.artifacts import Classifier

LOOKED_UP = {"heads": ("linear", "random_features")}


class Ridge(RidgeSettings, Updater):
    """Add new classes to the statistics of a ridge regression, and solve it again.

    The result is that of the rebalancer `ridge` on the images of all classes at once, up to
    rounding (1e-8): the sums over labelled images stay as they are, so nothing is forgotten.
    Pseudo-labels count by their weights. No learning rate, no epochs.

    Args:
        width: Number of random features ``relu(x P)``; 0 takes the features themselves.
        seed: Seed of P.
        balance: See the rebalancer `ridge`.
        beta: Of ``effective_number``, in [0, 1).
        tau: Of ``logit_adjusted``, >= 0.
        intercept: Fit an intercept that is not penalized.
        regularizer: See the rebalancer `ridge`; ``null`` chooses it by leave-one-out.

    Shapes:
        classifier: any head, which is replaced. features [M, D], labels [M] int64, weights [M],
        class_counts [C+K], num_labelled: rows with true labels, groups [M] int64: images that are
        left out together. Returns a linear head, or a head
        `random_features`.

    The trunk stays as it is (``update.mode: head``), and all labelled images count
    (``update.exemplars_per_class: null``).

    Source:
        Zhuang et al. 2022, "ACIL: Analytic Class-Incremental Learning with Absolute Memorization
        and Privacy Protection", arXiv 2205.14922; Fang et al. 2024, "AIR", arXiv 2408.10349;
        McDonnell et al. 2023, "RanPAC", arXiv 2307.02251.

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> zeros, counts = torch.zeros(2), torch.tensor([3, 3])
        >>> old = Classifier(Head.parse("linear"), 1, {}, zeros, counts, zeros[:1])
        >>> grown = Ridge()(
        ...     classifier=old,
        ...     features=torch.tensor([0.0, 1.0, 2.0, 4.0, 5.0, 6.0, -4.0, -5.0])[:, None],
        ...     labels=torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]),
        ...     weights=torch.ones(8),
        ...     class_counts=torch.tensor([3, 3, 2]),
        ...     num_labelled=6,
        ... )
        >>> len(grown.state["bias"]), grown.class_counts.tolist()
        (3, [3, 3, 2])
    """

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        class_counts: torch.Tensor,
        num_labelled: int,
        groups: torch.Tensor | None = None,
        report: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> Classifier:
        projection = self.projection(features)
        data = samples(features, labels, weights=weights, groups=groups, projection=projection)
        old, new = data.part(slice(num_labelled)), data.part(slice(num_labelled, None))
        num_known = len(classifier.class_counts)
        kept = self.gather(old, num_known).grown(len(class_counts) - num_known)
        kept.add(new)
        kept.reweight(self.class_weights(kept.counts), data)
        fitted = fit_ridge(self, kept, data)
        if report is not None:
            report(fitted.figures("update", kept.counts), 0)
        grown = classifier._replace(class_counts=class_counts)
        return with_ridge(grown, self, fitted, kept.counts)
