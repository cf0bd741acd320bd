from __future__ import annotations

from trainables.methods.gates import Comparing, Gate


class Novelty(Comparing, Gate):
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
