"""Shelf: gates. One file per method; the contract is `Gate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from trainables.gating import band_no_worse, no_worse
from trainables.methods.method import Method

Points = Annotated[float, Field(ge=0, le=100)]


class Gate(Method):
    """Decides whether a challenger may replace the champion.

    ``(*, challenger, champion) -> (passed, reason)``: both are metric dictionaries, ``champion``
    may be None.
    """


class Comparing(BaseModel):
    """What the gates share that compare one metric with the champion's, in points.

    Args:
        metric: Name of the compared metric, a fraction.
        allowed_regression: Points (hundredths) that may be lost.
        excused_regression: Points that may be lost where that may be noise (see `no_worse`).
    """

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    metric: str
    allowed_regression: Points = 1.0
    excused_regression: Points = 3.0

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        allowed = (self.allowed_regression, self.excused_regression)
        return no_worse(self.metric, challenger, champion, allowed=allowed, better=self.better)


class ComparingBand(Comparing):
    """`Comparing` for a band of classes, which may be empty."""

    def __call__(
        self, *, challenger: Mapping[str, float], champion: Mapping[str, float] | None
    ) -> tuple[bool, str]:
        allowed = (self.allowed_regression, self.excused_regression)
        return band_no_worse(self.metric, challenger, champion, allowed=allowed)
