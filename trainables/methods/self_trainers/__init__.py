"""Self-training on unlabelled images, one method per file; base class `SelfTrainer`."""

from trainables.methods.method import Method


class SelfTrainer(Method):
    """Pseudo-labels of unlabelled images of the known classes, by a first classifier.

    ``(*, logits) -> (pseudo_labels [N] int64, weights [N])``; weights are at least 0, and images of
    weight 0 are ignored. If ``unlabelled`` is in a method's `extra_views`, the stage trains twice:
    a first classifier on the labelled images, and the final one on labelled and pseudo-labelled
    images.
    """
