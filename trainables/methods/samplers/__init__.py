"""Samplers of training data, one per file; base class `Sampler`."""

from trainables.methods.method import Method


class Sampler(Method):
    """Sampling probabilities of training samples, or the sample indices of an epoch.

    ``(*, labels, class_counts, progress, epochs) -> [N]`` float64, the probability of each sample,
    summing to one, for an epoch of N draws. A sampler with the input ``generator`` may return
    indices ``[M]`` int64 instead, the samples of an epoch in order. Progress goes from 0 in the
    first epoch to 1 in the last.
    """
