from __future__ import annotations

from typing import ClassVar, Literal

from trainables.methods.gates import Comparing, Gate, Points


class Calibration(Comparing, Gate):
    """Refuses a challenger whose probabilities say less truly how often it is right.

    ``rise = 100 (challenger - champion)`` points; passes when ``rise <= allowed_regression``, or,
    where that may be noise, when ``rise <= excused_regression`` (see `Overall`).

    Args:
        metric: Name of the compared metric, lower = better; the expected
            calibration error.
        allowed_regression: Points (hundredths) that it may rise, >= 0. 2.0 is our choice.
        excused_regression: Points that it may rise where that may be noise. 5.0 is our choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A metric that the challenger lacks, or that is not finite,
    is refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "evaluate/calibration/ece"
        >>> Calibration()(challenger={name: 0.07}, champion={name: 0.05})[0]
        True
        >>> Calibration()(challenger={name: 0.09}, champion={name: 0.05})[0]
        False
    """

    better: ClassVar[Literal["higher", "lower"]] = "lower"

    metric: str = "evaluate/calibration/ece"
    allowed_regression: Points = 2.0
    excused_regression: Points = 5.0
