"""Distillation of two teachers into a grown head."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from trainables.methods.updaters import Updater

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class Distill(Updater):
    """Grow the head, then train it on labels, pseudo-labels and the answers of two teachers.

    Rows of known classes are copied bit by bit, new rows point at the weighted mean feature of
    their images and have the mean length of the old ones. The stage then trains head, and in mode
    ``full`` trunk, with ``update.distiller``, ``update.loss`` and ``update.training``.

    Shapes:
        classifier: any head. features [M, D], labels [M] int64, weights [M], class_counts [C+K].
        Returns a classifier with the same head and K more classes; their logit offset is the mean
        of those of the classes that have images.

    Source:
        Li and Hoiem 2016, "Learning without Forgetting", arXiv 1606.09282; Han et al. 2020,
        "AutoNovel", arXiv 2002.05714 (head grown by cluster centers).

    Example:
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> state = {"weight": torch.tensor([[2.0, 0.0]]), "bias": torch.tensor([0.0])}
        >>> old = Classifier(
        ...     Head.parse("linear"), 2, state, torch.zeros(1), torch.tensor([1]), torch.zeros(2)
        ... )
        >>> Distill()(
        ...     classifier=old,
        ...     features=torch.tensor([[1.0, 0.0], [0.0, 5.0]]),
        ...     labels=torch.tensor([0, 1]),
        ...     weights=torch.ones(2),
        ...     class_counts=torch.tensor([1, 1]),
        ... ).state["weight"].tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    trains: ClassVar[bool] = True

    def __call__(
        self,
        *,
        classifier: Classifier,
        features: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        class_counts: torch.Tensor,
    ) -> Classifier:
        from trainables.features.predict import head_module
        from trainables.functional.class_means import weighted_class_means
        from trainables.models.growth import grow_head

        new = range(len(classifier.class_counts), len(class_counts))
        centers = weighted_class_means(features, labels, weights, new)
        head = grow_head(head_module(classifier), len(centers), centers)
        usual = usual_offset(classifier).expand(len(centers))
        return classifier._replace(
            state={name: tensor.detach() for name, tensor in head.state_dict().items()},
            logit_offset=torch.cat([classifier.logit_offset, usual]),
            class_counts=class_counts,
        )


def usual_offset(classifier: Classifier) -> torch.Tensor:
    """Return the mean offset of the classes that have images: some silence the others for good."""
    present = classifier.class_counts > 0
    return classifier.logit_offset[present if bool(present.any()) else slice(None)].mean()
