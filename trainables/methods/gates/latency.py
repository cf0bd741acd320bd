from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from trainables.gating import no_worse
from trainables.methods.gates import Gate


class Latency(Gate):
    """Refuses a challenger that takes longer to answer.

    ``rise = 100 (challenger / champion - 1)`` percent; passes when ``rise <= allowed_regression``,
    where that may be noise when ``rise <= excused_regression`` (see `Overall`), and always when
    the difference is ``negligible``.

    Args:
        metric: Name of the compared metric, milliseconds per image, lower = better. Promotion
            measures both models on one machine, in turns; a stored value would be another
            machine's.
        allowed_regression: Percent that it may rise, >= 0. 10 is our choice.
        excused_regression: Percent that it may rise where the intervals overlap: the machine may
            be busy. 30 is our choice.
        negligible: Milliseconds per image that nobody notices, >= 0. 0.1 is our choice: twice
            nothing is still nothing.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A metric that the challenger lacks, or that is not finite,
    is refused.

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
            better="lower",
            unit="percent",
        )
        rise = challenger.get(self.metric, math.nan) - (champion or {}).get(self.metric, math.nan)
        if not passed and rise <= self.negligible:
            return True, f"{reason}; {self.negligible:g} ms per image are negligible"
        return passed, reason
