"""Shelf: thresholds. One file per method; the contract is `Threshold`."""

from trainables.methods.method import Method


class Threshold(Method):
    """Picks the confidence below which a sample is called unknown.

    ``(*, confidence, known) -> float``: ``confidence [N]``, ``known [N]`` bool. Samples with
    ``confidence < threshold`` are called unknown; ``-inf`` calls none unknown.
    """
