"""Shelf: pseudo_labelers. One file per method; the contract is `PseudoLabeler`."""

from trainables.methods.method import Method


class PseudoLabeler(Method):
    """Gives pool samples labels and weights.

    ``(*, assignments, features, num_known, ...) -> (pseudo_labels [S] int64, weights [S])``.
    Weights lie in [0, 1]; 0 = left out. Labels below ``num_known`` are known classes.
    """
