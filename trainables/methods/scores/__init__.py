"""Scores that tell known from unknown classes, one per file; base class `Score`."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from trainables.methods.method import Method


class Score(Method):
    """Confidence that a sample is of a known class; higher values indicate a known class.

    ``(*, logits or features, state) -> confidence [B]``. A score with state has
    ``fit(*, features, logits, labels, class_counts) -> dict[str, Tensor]``, with those of the
    arguments that it needs; the result is passed as ``state``. It may have ``leave_out(*, features,
    labels, groups) -> confidence [N]``, the confidence of each sample of a fit by the fit without
    the sample's group; it then depends on features alone.
    """

    aliases: ClassVar[Mapping[str, str]] = {"least_confident": "msp"}

    fit: ClassVar[Callable[..., Any]]
    leave_out: ClassVar[Callable[..., Any]]
