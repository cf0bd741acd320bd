"""No pretraining."""

from __future__ import annotations

from typing import ClassVar

from trainables.methods.pretrainers import Pretrainer


class NoPretraining(Pretrainer):
    """No pretraining, so that the trunk has random initial weights.

    Source:
        None: the baseline.

    Example:
        >>> NoPretraining().trains
        False
    """

    trains: ClassVar[bool] = False
