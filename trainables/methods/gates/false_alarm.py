"""Gate on known images that are called unknown, by band of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from trainables.functional.paired_rules import Decision, Rate, judge_rate
from trainables.methods.gates import Gate

WORST_FIRST = ("refused", "cannot tell", "passed")


class FalseAlarm(Gate):
    """Gate that refuses a challenger that calls too many known images of a band unknown.

    The threshold is set for a level of false alarm; what comes of it is measured on the test part.
    With the 95 % interval ``[low, high]`` of the share of a band's known test images that are
    called unknown, the gate refuses if ``low > times * level`` in a band (many, medium, few),
    passes if ``high <= times * level`` in all of them, and cannot tell otherwise.

    Args:
        times: Largest allowed false alarm as a multiple of the level, >= 1. Default 2, this
            project's choice.

    Shapes:
        challenger, champion: metric dictionaries -> (passed, reason). From these alone it is not
        asked, and neither where the threshold was not set by a level.

    Source:
        None: a rule of this project.

    Example:
        >>> rates = [Rate("many", 0.04, 0.02, 0.07, 300, 300), Rate("few", 0.3, 0.15, 0.5, 30, 30)]
        >>> FalseAlarm().judge_rates(rates, level=0.05).verdict
        'refused'
        >>> print(FalseAlarm().judge_rates(rates[:1], level=0.05).reason)
        test/novelty/false_alarm, at most 0.100: many 0.040 [0.020, 0.070] of 300 images
    """

    times: Annotated[float, Field(ge=1)] = 2.0

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        return True, "not asked: it needs a table of outcomes"

    def judge_rates(self, rates: Sequence[Rate], level: float) -> Decision:
        """Decide by the false alarm of each band.

        Args:
            rates: At least one band.
            level: The false alarm that the threshold was set for.
        """
        limit = self.times * level
        found = sorted((judge_rate(r, limit) for r in rates), key=_severity)
        worst = found[0]
        needs = max((d.needs for d in found if d.needs), default=None)
        said = f"test/novelty/false_alarm, at most {limit:.3f}: "
        reason = said + "; ".join(decision.reason for decision in found)
        return Decision(worst.verdict, reason, needs if worst.verdict == "cannot tell" else None)


def _severity(decision: Decision) -> int:
    return WORST_FIRST.index(decision.verdict)
