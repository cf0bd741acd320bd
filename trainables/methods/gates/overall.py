from __future__ import annotations

from trainables.methods.gates import Comparing, Gate, Points


class Overall(Comparing, Gate):
    """Refuses a challenger whose accuracy over all classes fell by more than is allowed.

    ``drop = 100 (champion - challenger)`` points; passes when ``drop <= allowed_regression``, or,
    where the drop may be noise of the seeds, when ``drop <= excused_regression``. It may be noise
    if both were run on the same seeds (``<metric>/seed/<n>``, two or more) and the 95 % t-interval
    of the paired differences holds zero, or, without common seeds, if their intervals
    (``<metric>/low`` to ``<metric>/high``) overlap.

    Args:
        metric: Name of the compared metric, a fraction where higher = better; the mean accuracy of
            the classes, which a long tail can't hide in.
        allowed_regression: Points (hundredths) that may be lost, >= 0. 0.5 is our choice.
        excused_regression: Points that may be lost where that may be noise; a few seeds make wide
            intervals, so this is a limit of its own. 2 is our choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. A metric that the challenger lacks, or that is not finite,
    is refused: what was not measured was not shown. A champion that lacks it can't be defended.

    Source:
        None: a rule of this project.

    Example:
        >>> gate = Overall()
        >>> gate(
        ...     challenger={"evaluate/accuracy/balanced": 0.70},
        ...     champion={"evaluate/accuracy/balanced": 0.72},
        ... )
        (False, 'evaluate/accuracy/balanced 0.7000 against 0.7200: lost 2.00 points, allowed 0.50')
    """

    metric: str = "evaluate/accuracy/balanced"
    allowed_regression: Points = 0.5
    excused_regression: Points = 2.0
