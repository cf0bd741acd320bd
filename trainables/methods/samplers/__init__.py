"""Shelf: samplers. One file per method; the contract is `Sampler`."""

from trainables.methods.method import Method


class Sampler(Method):
    """Says how often each training sample is drawn, or writes the positions of an epoch.

    ``(*, labels, class_counts, progress, epochs) -> probability per sample [N]``, float64, summing
    to one, for an epoch of N draws; or with ``generator`` an index stream: positions ``[M]``,
    int64, in the order of the epoch, which then has M draws. Progress goes from 0 in the first
    epoch to 1 in the last.
    """
