"""Gate on the mean class accuracy."""

from __future__ import annotations

from typing import ClassVar

from trainables.methods.gates import Comparing, Gate, Points


class Overall(Comparing, Gate):
    """Gate that refuses a challenger with lower mean class accuracy.

    ``drop = 100 (champion - challenger)`` points. The gate passes if ``drop <=
    allowed_regression``, and if the drop may be seed noise, also if ``drop <= excused_regression``.
    With at least two common seeds (``<metric>/seed/<n>``), the drop may be noise if the 95 %
    t-interval of the paired differences contains zero; without common seeds, if the intervals
    (``<metric>/low`` to ``<metric>/high``) overlap.

    Args:
        metric: Name of the compared metric (a fraction, higher is better), by default the mean over
            known and new classes of the right answers (`trainables.inference.judge`), in which rare
            classes have the same weight as frequent ones.
        allowed_regression: Largest allowed drop in points (hundredths), >= 0. Default 0.5, this
            project's choice.
        excused_regression: Largest allowed drop in points if it may be noise, because intervals
            over few seeds are wide. Default 2, this project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion, or if the champion lacks the metric, the gate passes. A challenger whose
    metric is missing or not finite is refused.

    Source:
        None: a rule of this project.

    Example:
        >>> gate = Overall()
        >>> gate(
        ...     challenger={"test/accuracy/open": 0.70},
        ...     champion={"test/accuracy/open": 0.72},
        ... )
        (False, 'test/accuracy/open 0.7000 against 0.7200: lost 2.00 points, allowed 0.50')
    """

    figure: ClassVar[str] = "accuracy/balanced"

    metric: str = "test/accuracy/open"
    allowed_regression: Points = 0.5
    excused_regression: Points = 2.0
