"""Gate on what the classes of both versions lose to classes that only one of them knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trainables.functional.paired_rules import Decision, Gain, judge_gain
from trainables.methods.gates import Gate, Points


class UnsharedClasses(Gate):
    """Gate on what shared classes lose to classes that only one version knows.

    A class that is added draws some images of the others: a price that was chosen, and that has an
    allowance of its own. Of the images of classes that both versions know, it counts those that
    only the champion named rightly, because the challenger took them for a class that the champion
    does not know; a class that was removed counts the other way round. With the 95 % interval
    ``[low, high]`` of this gain in balanced accuracy, the gate refuses if ``high <
    -allowed_regression``, passes if ``low >= -allowed_regression``, and cannot tell otherwise.

    Args:
        allowed_regression: Largest allowed loss in points (hundredths), >= 0. Default 3, this
            project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason). From these alone the gate
        cannot tell what was lost to which class: it is not asked.

    Source:
        None: a rule of this project.

    Example:
        >>> figure = "accuracy/unshared_classes"
        >>> lost = Gain(figure, -0.05, -0.07, -0.03, 0.85, 0.90, 0.02, 900.0, 900)
        >>> [UnsharedClasses(allowed_regression=a).judge(lost).verdict for a in (2.0, 3.0, 7.0)]
        ['refused', 'cannot tell', 'passed']
    """

    figure: ClassVar[str] = "accuracy/unshared_classes"

    allowed_regression: Points = 3.0

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        return True, "not asked: it needs tables of outcomes of both versions"

    def judge(self, gain: Gain) -> Decision:
        """Decide by the gain; the reason says what was lost."""
        said = f"{gain.origin}accuracy/balanced by classes that one version alone knows"
        return judge_gain(gain, self.allowed_regression, said)
