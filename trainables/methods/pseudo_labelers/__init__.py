"""Pseudo-labels of pool samples, one method per file; base class `PseudoLabeler`."""

from trainables.methods.method import Method


class PseudoLabeler(Method):
    """Assignment of pseudo-labels and weights to pool samples.

    ``(*, assignments, features, num_known, ...) -> (pseudo_labels [S] int64, weights [S])``.
    Weights are in [0, 1]; samples of weight 0 are ignored. Labels below ``num_known`` are known
    classes.
    """
