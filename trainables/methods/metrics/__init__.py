"""Metrics, one per file; base class `Metric`."""

from trainables.methods.method import Method


class Metric(Method):
    """Measures a run.

    ``(*, ...) -> dict[str, float]``; a value that is undefined (an empty band) is left out or NaN,
    as documented.
    """
