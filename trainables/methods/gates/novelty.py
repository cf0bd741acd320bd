"""Gate on the detection of new classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trainables.methods.gates import Comparing, Gate


class Novelty(Comparing, Gate):
    """Gate that refuses a challenger with worse detection of new classes.

    ``drop = 100 (champion - challenger)`` points. The gate passes if ``drop <=
    allowed_regression``, and if the drop may be noise, also if ``drop <= excused_regression`` (see
    `Overall`).

    Args:
        metric: Name of the compared metric (a fraction, higher is better), by default the AUROC of
            the confidence, known classes against classes that no model learns.
        allowed_regression: Largest allowed drop in points (hundredths), >= 0. Default 1, this
            project's choice.
        excused_regression: Largest allowed drop in points if it may be noise. Default 3, this
            project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason).

    Without a champion the gate passes. It is not asked, and passes, if neither side has the metric,
    because the test set has no image of a class that no model learns. Otherwise a challenger whose
    metric is missing or not finite is refused.

    Source:
        None: a rule of this project.

    Example:
        >>> name = "test/novelty/auroc"
        >>> Novelty()(challenger={name: 0.50}, champion={name: 0.51})[0]
        True
        >>> Novelty()(challenger={name: 0.50}, champion={name: 0.52})[0]
        False
        >>> Novelty()(challenger={}, champion=None)
        (True, 'not asked: test/novelty/auroc needs test images of classes that no model learns')
    """

    figure: ClassVar[str] = "novelty/auroc"

    metric: str = "test/novelty/auroc"

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        if self.metric not in challenger and self.metric not in (champion or {}):
            need = f"{self.metric} needs test images of classes that no model learns"
            return True, f"not asked: {need}"
        return super().__call__(challenger=challenger, champion=champion)
