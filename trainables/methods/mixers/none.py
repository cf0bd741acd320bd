"""No mixing."""

from __future__ import annotations

from trainables.methods.mixers import Mixer


class NoMixing(Mixer):
    """No mixing.

    Source:
        None: the baseline.

    Example:
        >>> NoMixing()() is None
        True
    """

    def __call__(self) -> None:
        return None
