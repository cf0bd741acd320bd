"""Thresholds on the confidence, one method per file; base class `Threshold`."""

from trainables.methods.method import Method


class Threshold(Method):
    """Choice of the confidence below which a sample is called unknown.

    ``(*, confidence, known) -> float`` with ``confidence [N]`` and ``known [N]`` bool. Samples with
    ``confidence < threshold`` are called unknown; with ``-inf`` no sample is called unknown.
    """
