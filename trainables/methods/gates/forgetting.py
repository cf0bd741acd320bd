from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from trainables.methods.gates import Comparing, Gate


class Forgetting(Comparing, Gate):
    """Refuses a challenger whose update cost more accuracy on the known classes.

    ``rise = 100 (challenger - champion)`` points; passes when ``rise <= allowed_regression``, or,
    where that may be noise, when ``rise <= excused_regression`` (see `Overall`). Values below zero
    count as zero: a champion whose update even helped the known classes sets no higher bar than
    one that forgot nothing.

    Args:
        metric: Name of the compared metric, lower = better; the fall of the
            mean accuracy of the known classes from before to after the update.
        allowed_regression: Points (hundredths) that it may rise, >= 0. 1.0 is our choice.
        excused_regression: Points that it may rise where that may be noise. 3.0 is our choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A metric that the challenger lacks, or that is not finite,
    is refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "evaluate/update/forgetting"
        >>> Forgetting()(challenger={name: 0.06}, champion={name: 0.05})[0]
        True
        >>> Forgetting()(challenger={name: 0.09}, champion={name: 0.05})[0]
        False
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    metric: str = "evaluate/update/forgetting"

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        rival = None if champion is None else self._floored(champion)
        return super().__call__(challenger=self._floored(challenger), champion=rival)

    def _floored(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics with this gate's, its interval and its seeds at zero or above."""
        own = (self.metric, f"{self.metric}/")
        return {
            # not max(): NaN must stay
            name: 0.0 if name.startswith(own) and value < 0 else value
            for name, value in metrics.items()
        }
