"""One or two batches per training step (BBN, hybrid networks); base class `Branches`."""

from __future__ import annotations

from typing import ClassVar

from trainables.methods.method import Method
from trainables.methods.samplers import Sampler


class Branches(Method):
    """Number of batches per step, their path through the network, and their joint loss.

    ``(*, features [B, D], labels [B], second_features [B, D], second_labels [B], progress) ->
    Joined`` (`trainables.functional.joined_batch`). With a `trunk_ending` (``2xblock``) the trunk
    has two branches, one for each batch.
    """

    trunk_ending: ClassVar[str] = ""

    def other_sampler(self) -> Sampler | None:
        """Return the sampler of the second batch; ``None`` for one batch per step."""
        return None
