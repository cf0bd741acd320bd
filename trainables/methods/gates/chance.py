"""Gate on being better than always giving the same answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trainables.functional.paired_rules import Decision, Gain, images_needed, not_a_number
from trainables.methods.gates import Gate, Points


class Chance(Gate):
    """Gate that refuses a challenger that is no better than always giving the same answer.

    Always answering the most frequent class has a balanced accuracy of 1 / C, which is chance. With
    the 95 % interval ``[low, high]`` of the gain over it, image by image, the gate passes if ``low
    > 0``, refuses if ``high < least_gain``, and cannot tell otherwise. It is asked about every
    version, the first one included.

    Args:
        least_gain: Gain in points (hundredths) below which a model is of no use, > 0. Default 5,
            this project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason). From these alone it is not
        asked.

    Source:
        None: a rule of this project.

    Example:
        >>> useless = Gain("accuracy/chance", 0.01, -0.02, 0.04, 0.21, 0.20, 0.03, 400.0, 400)
        >>> Chance().judge(useless).reason
        'test/accuracy/balanced 0.2100 against 0.2000: +1.00 points [-2.00, +4.00], least gain 5.00'
        >>> Chance().judge(useless).verdict, Chance().judge(useless._replace(low=0.001)).verdict
        ('refused', 'passed')
    """

    figure: ClassVar[str] = "accuracy/chance"

    least_gain: Points = 5.0

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        return True, "not asked: it needs a table of outcomes"

    def judge(self, gain: Gain) -> Decision:
        """Decide by the gain over a constant answer."""
        odd = not_a_number(gain)
        if odd:
            return Decision("cannot tell", odd)
        reason = (
            f"{gain.origin}accuracy/balanced {gain.mine:.4f} against {gain.theirs:.4f}"
            f"{gain.where}: {100 * gain.value:+z.2f} points [{100 * gain.low:+z.2f}, "
            f"{100 * gain.high:+z.2f}], least gain {self.least_gain:.2f}"
        )
        if gain.low > 0:
            return Decision("passed", reason)
        if gain.high < self.least_gain / 100:
            return Decision("refused", reason)
        needs = images_needed(gain, 0.0)
        unsure = f"neither is shown: that needs about {needs:,} {gain.unit}"
        return Decision("cannot tell", f"{reason}; {unsure}", needs)
