"""Promotion gates, one per file; base class `Gate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from trainables.former_names import current_metric
from trainables.functional.paired_rules import Decision, Gain, judge_gain
from trainables.functional.promotion_rules import band_no_worse, no_worse
from trainables.methods.method import Method

Points = Annotated[float, Field(ge=0, le=100)]


class Gate(Method):
    """A rule that decides whether a challenger may replace the champion.

    ``(*, challenger, champion) -> (passed, reason)``, where both arguments are metric dictionaries
    and ``champion`` may be None. A gate that compares one metric names it in a field ``metric``,
    and has ``better = "lower"`` if lower values are better; it is asked about the best champion so
    far too.

    Versions that have tables of outcomes are compared image by image instead: a gate that names a
    ``figure`` (`orchestrator.registry.paired`) is given what the challenger gains in it, ``judge(
    gain) -> Decision``.
    """

    figure: ClassVar[str] = ""

    def judge(self, gain: Gain) -> Decision:
        """Decide by a gain, image by image; for gates that name a figure."""
        return judge_gain(gain, 0.0)


class Comparing(BaseModel):
    """Comparison of one metric with the champion's, in points, shared by several gates.

    Args:
        metric: Name of the compared metric, a fraction.
        allowed_regression: Largest allowed loss in points (hundredths).
        excused_regression: Largest allowed loss in points if the loss may be noise (`no_worse`).
            Image by image it is not asked for: there, a loss that is not certain does not refuse.
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    metric: str
    allowed_regression: Points = 1.0
    excused_regression: Points = 3.0

    @field_validator("metric")
    @classmethod
    def _by_its_current_name(cls, metric: str) -> str:
        return current_metric(metric)

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        allowed = (self.allowed_regression, self.excused_regression)
        return no_worse(self.metric, challenger, champion, allowed=allowed, better=self.better)

    def judge(self, gain: Gain) -> Decision:
        """Decide by a gain, image by image: is a loss of more than is allowed shown?"""
        return judge_gain(gain, self.allowed_regression)


class ComparingBand(Comparing):
    """`Comparing` for a band of classes, which may be empty."""

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        allowed = (self.allowed_regression, self.excused_regression)
        return band_no_worse(self.metric, challenger, champion, allowed=allowed)
