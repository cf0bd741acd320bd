"""No rebalancing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.methods.rebalancers import Rebalancer

if TYPE_CHECKING:
    from trainables.artifacts import Classifier


class NoRebalancer(Rebalancer):
    """No rebalancing.

    Shapes:
        classifier: any head; returned unchanged.

    Source:
        Identity, the baseline of all rebalancers.

    Example:
        >>> import torch
        >>> from trainables.artifacts import Classifier
        >>> from trainables.methods.heads import Head
        >>> empty = torch.zeros(2)
        >>> trained = Classifier(Head.parse("linear"), 1, {}, empty, empty, empty[:1])
        >>> NoRebalancer()(classifier=trained) is trained
        True
    """

    def __call__(self, *, classifier: Classifier) -> Classifier:
        return classifier
