"""Frozen for pretrained weights, trained whole otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.methods.tuners import Tuner
from trainables.methods.tuners.frozen import Frozen
from trainables.methods.tuners.full import Full

if TYPE_CHECKING:
    from trainables.models.backbone import Trunk


class Auto(Tuner):
    """A trunk with pretrained weights is frozen, any other one is trained as a whole.

    Pretrained are weights of ``pretrain.method: pretrained``, not those that this recipe learned
    without labels.

    Source:
        None: a rule of this project.

    Example:
        >>> Auto().for_trunk(pretrained=True).name, Auto().for_trunk(pretrained=False).name
        ('frozen', 'full')
    """

    def for_trunk(self, *, pretrained: bool) -> Tuner:
        return Frozen() if pretrained else Full()

    def rates(self, trunk: Trunk) -> dict[str, float]:
        return Full().rates(trunk)
