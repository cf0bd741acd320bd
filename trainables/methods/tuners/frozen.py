"""A trunk that is not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainables.methods.tuners import Tuner

if TYPE_CHECKING:
    from trainables.models.backbone import Trunk


class Frozen(Tuner):
    """No weight of the trunk is trained: the head learns on features that are computed once.

    Images are not augmented. The head's learning rate is lowered where features are long, see
    `trainables.models.head_rate.rate_factor`.

    Source:
        Common practice of transfer learning; Kornblith, Shlens, Le 2019, "Do Better ImageNet Models
        Transfer Better?", arXiv 1805.08974, compares it with training all weights.

    Example:
        >>> from trainables.models.backbone import build_trunk
        >>> Frozen().rates(build_trunk("fastnet", 32))
        {}
    """

    moves: ClassVar[bool] = False

    def rates(self, trunk: Trunk) -> dict[str, float]:
        return {}
