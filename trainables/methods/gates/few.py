"""Gate on the accuracy of classes with few training images."""

from __future__ import annotations

from typing import ClassVar

from trainables.methods.gates import ComparingBand, Gate, Points


class Few(ComparingBand, Gate):
    """Gate that refuses a challenger with lower accuracy on classes with few training images.

    ``drop = 100 (champion - challenger)`` points. The gate passes if ``drop <=
    allowed_regression``, and if the drop may be noise, also if ``drop <= excused_regression`` (see
    `Overall`).

    Args:
        metric: Name of the compared metric (a fraction, higher is better), by default the mean
            accuracy of the classes in the band "few".
        allowed_regression: Largest allowed drop in points (hundredths), >= 0. Default 1, this
            project's choice.
        excused_regression: Largest allowed drop in points if it may be noise. Default 4, this
            project's choice, because the accuracy on few test images is noisy.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. It also passes if no class is in the band, that is, if
    neither side has the metric but the challenger has that of another band. Otherwise a challenger
    whose metric is missing or not finite is refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "test/accuracy/few"
        >>> Few()(challenger={name: 0.50}, champion={name: 0.51})[0]
        True
        >>> Few()(challenger={name: 0.50}, champion={name: 0.52})[0]
        False
    """

    figure: ClassVar[str] = "accuracy/few"

    metric: str = "test/accuracy/few"
    excused_regression: Points = 4.0
