"""Gate on the calibration error."""

from __future__ import annotations

from typing import ClassVar, Literal

from trainables.methods.gates import Comparing, Gate, Points


class Calibration(Comparing, Gate):
    """Gate that refuses a challenger with a higher calibration error.

    ``rise = 100 (challenger - champion)`` points. The gate passes if ``rise <=
    allowed_regression``, and if the rise may be noise, also if ``rise <= excused_regression`` (see
    `Overall`).

    Args:
        metric: Name of the compared metric (lower is better), by default the expected calibration
            error.
        allowed_regression: Largest allowed rise in points (hundredths), >= 0. Default 2, this
            project's choice.
        excused_regression: Largest allowed rise in points if it may be noise. Default 5, this
            project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A challenger whose metric is missing or not finite is
    refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "test/calibration/ece"
        >>> Calibration()(challenger={name: 0.07}, champion={name: 0.05})[0]
        True
        >>> Calibration()(challenger={name: 0.09}, champion={name: 0.05})[0]
        False
    """

    figure: ClassVar[str] = "calibration/ece"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    metric: str = "test/calibration/ece"
    allowed_regression: Points = 2.0
    excused_regression: Points = 5.0
