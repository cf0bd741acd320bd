"""Classifier heads, one per file; base class `Head`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Head(Method):
    """A map from features ``[B, D]`` to logits ``[B, C]``.

    ``build(num_features, num_classes) -> torch.nn.Module``. In ``eval()`` mode the module returns
    the logits of predictions, with any correction at test time applied.
    """

    build: ClassVar[Callable[..., Any]]

    @property
    def trunk_ending(self) -> str:
        """Return the suffix of a branched trunk's name, e.g. ``3xstage``; empty for no branches."""
        return ""
