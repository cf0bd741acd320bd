"""Calibrators of logits, one per file; base class `Calibrator`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Calibrator(Method):
    """A map of logits, fitted so that softmax probabilities match accuracy.

    ``fit(*, logits, labels) -> dict[str, Tensor]``; ``(*, logits, state) -> logits``. A fit may
    also take ``weights [N]``, how much each sample counts.
    """

    fit: ClassVar[Callable[..., Any]]
