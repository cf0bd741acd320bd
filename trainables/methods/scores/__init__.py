"""Shelf: scores. One file per method; the contract is `Score`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Score(Method):
    """How surely a sample is of a known class: higher = more surely known.

    ``(*, logits or features, state) -> confidence [B]``. A score with state has
    ``fit(*, features, logits, labels, class_counts) -> dict[str, Tensor]`` (it names those it
    needs), whose result comes back as ``state``.
    """

    fit: ClassVar[Callable[..., Any]]
