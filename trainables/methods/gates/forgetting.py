"""Gate on the forgetting of known classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from trainables.methods.gates import Comparing, Gate


class Forgetting(Comparing, Gate):
    """Gate that refuses a challenger whose update forgets more of the known classes.

    ``rise = 100 (challenger - champion)`` points. The gate passes if ``rise <=
    allowed_regression``, and if the rise may be noise, also if ``rise <= excused_regression`` (see
    `Overall`). Negative values count as zero, so that a champion whose update improved the known
    classes is treated as one that forgot nothing.

    Args:
        metric: Name of the compared metric (lower is better), by default the drop of mean accuracy
            on the known classes by the update.
        allowed_regression: Largest allowed rise in points (hundredths), >= 0. Default 1, this
            project's choice.
        excused_regression: Largest allowed rise in points if it may be noise. Default 3, this
            project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A challenger whose metric is missing or not finite is
    refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "test/forgetting"
        >>> Forgetting()(challenger={name: 0.06}, champion={name: 0.05})[0]
        True
        >>> Forgetting()(challenger={name: 0.09}, champion={name: 0.05})[0]
        False
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    metric: str = "test/forgetting"

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        clamped_champion = None if champion is None else self._clamp(champion)
        return super().__call__(challenger=self._clamp(challenger), champion=clamped_champion)

    def _clamp(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Clamp this gate's metric, its interval and its per-seed values to at least zero."""
        prefixes = (self.metric, f"{self.metric}/")
        return {
            # not max(), because NaN must stay NaN
            name: 0.0 if name.startswith(prefixes) and value < 0 else value
            for name, value in metrics.items()
        }
