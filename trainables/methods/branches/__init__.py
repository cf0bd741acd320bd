"""Shelf: branches. One file per method; the contract is `Branches`."""

from __future__ import annotations

from typing import ClassVar

from trainables.methods.method import Method
from trainables.methods.samplers import Sampler


class Branches(Method):
    """How many batches a step has, how they pass the network, and how they become one loss.

    ``(*, features [B, D], labels [B], second_features [B, D], second_labels [B], progress) ->
    Joined`` (`trainables.branching`). Where `trunk_ending` says so (``2xblock``) the trunk gets two
    branches, and each batch goes through its own.
    """

    trunk_ending: ClassVar[str] = ""

    def other_sampler(self) -> Sampler | None:
        """Return the sampler of the second batch; ``None`` for one batch per step."""
        return None
