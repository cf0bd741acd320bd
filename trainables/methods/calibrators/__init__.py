"""Calibrators of logits, one per file; base class `Calibrator`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Calibrator(Method):
    """A map of logits, fitted so that softmax probabilities match accuracy.

    ``fit(*, logits, labels) -> dict[str, Tensor]``; ``(*, logits, state) -> logits``.
    """

    fit: ClassVar[Callable[..., Any]]
