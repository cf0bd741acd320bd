"""Gate on the prediction latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trainables.functional.promotion_rules import no_worse
from trainables.methods.gates import Gate


class Latency(Gate):
    """Gate that refuses a challenger with higher prediction latency.

    ``rise = 100 (challenger / champion - 1)`` percent. The gate passes if ``rise <=
    allowed_regression``, if the rise may be noise also if ``rise <= excused_regression`` (see
    `Overall`), and always if the difference is at most ``negligible``.

    Args:
        metric: Name of the compared metric, milliseconds per image. Promotion measures both models
            alternately on one machine, because stored values may be from different machines.
        allowed_regression: Largest allowed rise in percent, >= 0. Default 10, this project's
            choice.
        excused_regression: Largest allowed rise in percent if the intervals overlap, e.g. on a busy
            machine. Default 30, this project's choice.
        negligible: Difference in milliseconds per image that always passes, >= 0. Default 0.1, this
            project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A challenger whose metric is missing or not finite is
    refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "evaluate/latency/ms"
        >>> Latency()(challenger={name: 2.2}, champion={name: 2.0})[0]
        True
        >>> Latency()(challenger={name: 3.0}, champion={name: 2.0})[0]
        False
        >>> Latency()(challenger={name: 0.08}, champion={name: 0.04})[0]
        True
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    metric: str = "evaluate/latency/ms"
    allowed_regression: Annotated[float, Field(ge=0)] = 10.0
    excused_regression: Annotated[float, Field(ge=0)] = 30.0
    negligible: Annotated[float, Field(ge=0)] = 0.1

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        passed, reason = no_worse(
            self.metric,
            challenger,
            champion,
            allowed=(self.allowed_regression, self.excused_regression),
            better=self.better,
            unit="percent",
        )
        rise = challenger.get(self.metric, math.nan) - (champion or {}).get(self.metric, math.nan)
        if not passed and rise <= self.negligible:
            return True, f"{reason}; {self.negligible:g} ms per image are negligible"
        return passed, reason
