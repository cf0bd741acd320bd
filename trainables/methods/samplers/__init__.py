"""Shelf: samplers. One file per method; the contract is `Sampler`."""

from trainables.methods.method import Method


class Sampler(Method):
    """Says how often each training sample is drawn.

    ``(*, labels, class_counts, progress) -> probability per sample [N]``, summing to one.
    """
