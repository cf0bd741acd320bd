"""No pretraining."""

from __future__ import annotations

from typing import ClassVar

from trainables.methods.pretrainers import Pretrainer


class NoPretraining(Pretrainer):
    """No pretraining: the trunk starts from its random initialisation.

    Source:
        None: the baseline.

    Example:
        >>> NoPretraining().trains
        False
    """

    trains: ClassVar[bool] = False
