"""Which weights of a trunk a training changes, one rule per file; base class `Tuner`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from trainables.methods.method import Method

if TYPE_CHECKING:
    from trainables.models.backbone import Trunk


class Tuner(Method):
    """Which weights of the trunk are trained, and how fast each of them.

    ``rates(trunk) -> {name of a parameter: factor of the trunk's learning rate}``; a parameter
    without a rate stays as it is, bit by bit, and so do the running statistics of its layer.
    ``prepare(trunk)`` may first put new weights into the trunk; ``finish(trunk)`` then takes them
    out again after the training, so that a stored trunk has the architecture of its name. A tuner
    that does not ``move`` the trunk trains the head on features that are computed once.
    """

    moves: ClassVar[bool] = True
    rates: ClassVar[Callable[..., dict[str, float]]]

    def for_trunk(self, *, pretrained: bool) -> Tuner:
        """Return the rule for a trunk whose weights were, or were not, trained elsewhere."""
        return self

    @property
    def stochastic_depth(self) -> float:
        """Return the drop-path rate of the trunk during the training."""
        return 0.0

    def prepare(self, trunk: Trunk) -> None:
        """Put new weights into a trunk, in place; most rules need none."""

    def finish(self, trunk: Trunk) -> None:
        """Take out, in place, what `prepare` put in; the trunk's features stay the same."""
