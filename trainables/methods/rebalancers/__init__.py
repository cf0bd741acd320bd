"""Shelf: rebalancers. One file per method; the contract is `Rebalancer`."""

from trainables.methods.method import Method


class Rebalancer(Method):
    """Corrects a trained classifier for the long tail, on frozen features.

    ``(*, classifier, features, labels, class_counts, generator) -> Classifier``.
    """
