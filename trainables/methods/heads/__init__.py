"""Shelf: heads. One file per method; the contract is `Head`."""

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Head(Method):
    """Turns features ``[B, D]`` into logits ``[B, C]``.

    ``build(num_features, num_classes) -> torch.nn.Module``. In ``eval()`` mode the module gives the
    logits that predictions are made from (so a correction at test time lives inside it).
    """

    build: ClassVar[Callable[..., Any]]

    @property
    def trunk_ending(self) -> str:
        """Return the branches that the trunk needs, as in ``3xstage``; empty for none."""
        return ""
