"""Thresholds on the confidence, one method per file; base class `Threshold`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Threshold(Method):
    """Choice of the confidence below which a sample is called unknown.

    ``(*, confidence, known) -> float`` with ``confidence [N]`` and ``known [N]`` bool. Samples with
    ``confidence < threshold`` are called unknown; with ``-inf`` no sample is called unknown. A
    method may also take ``predicted`` (the class that a sample is taken for) and ``labels`` ``[N]``
    int64, ``weights [N]`` and ``class_counts [C]``, and have ``by_class``, a function of the same
    inputs that returns the threshold of each class ``[C]``, or ``None``.
    """

    by_class: ClassVar[Callable[..., Any]]
