from __future__ import annotations

from trainables.methods.gates import ComparingBand, Gate, Points


class Few(ComparingBand, Gate):
    """Refuses a challenger that got worse on the classes with few training images.

    ``drop = 100 (champion - challenger)`` points; passes when ``drop <= allowed_regression``, or,
    where that may be noise, when ``drop <= excused_regression`` (see `Overall`).

    Args:
        metric: Name of the compared metric, a fraction where higher = better; the mean
            accuracy of the classes in the "few" band.
        allowed_regression: Points (hundredths) that may be lost, >= 0. 1.0 is our choice: few
            classes with few images are noisy.
        excused_regression: Points that may be lost where that may be noise. 4.0 is our choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes, also where no class is in the band: neither side has the
    metric, the challenger has another band's. Otherwise a metric that the challenger lacks, or
    that is not finite, is refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "evaluate/accuracy/few"
        >>> Few()(challenger={name: 0.50}, champion={name: 0.51})[0]
        True
        >>> Few()(challenger={name: 0.50}, champion={name: 0.52})[0]
        False
    """

    metric: str = "evaluate/accuracy/few"
    excused_regression: Points = 4.0
