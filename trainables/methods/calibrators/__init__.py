"""Shelf: calibrators. One file per method; the contract is `Calibrator`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Calibrator(Method):
    """Makes softmax probabilities match accuracy.

    ``fit(*, logits, labels) -> dict[str, Tensor]``; ``(*, logits, state) -> logits``.
    """

    fit: ClassVar[Callable[..., Any]]
