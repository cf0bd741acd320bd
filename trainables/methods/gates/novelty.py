from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from trainables.gating import no_worse
from trainables.methods.gates import Gate


class Novelty(Gate):
    """Refuses a challenger that got worse at telling new classes from known ones.

    ``drop = 100 (champion - challenger)`` points; passes when ``drop <= allowed_regression``, or,
    where that may be noise, when ``drop <= excused_regression`` (see `Overall`).

    Args:
        metric: Name of the compared metric, a fraction where higher = better; the AUROC
            of confidence, known against new.
        allowed_regression: Points (hundredths) that may be lost, >= 0. 1.0 is our choice.
        excused_regression: Points that may be lost where that may be noise. 3.0 is our choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A metric that the challenger lacks, or that is not finite,
    is refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "evaluate/novelty/auroc"
        >>> Novelty()(challenger={name: 0.50}, champion={name: 0.51})[0]
        True
        >>> Novelty()(challenger={name: 0.50}, champion={name: 0.52})[0]
        False
    """

    metric: str = "evaluate/novelty/auroc"
    allowed_regression: Annotated[float, Field(ge=0, le=100)] = 1.0
    excused_regression: Annotated[float, Field(ge=0, le=100)] = 3.0

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        allowed = (self.allowed_regression, self.excused_regression)
        return no_worse(self.metric, challenger, champion, allowed=allowed)
