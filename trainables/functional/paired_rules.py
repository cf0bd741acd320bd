"""Decide by a paired gain whether harm is shown, excluded, or neither; shared by the gates."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Verdict = Literal["passed", "refused", "cannot tell", "not asked"]
Z = 1.96  # of a 95 % interval
POWER = ((Z + 0.8416) / Z) ** 2  # so many more images tell a difference in 4 of 5 samples
SMALLEST_STEP = 0.0025  # nobody wants to know how many images tell a difference below this


class Decision(NamedTuple):
    """A gate's verdict, its reason, and the number of images that would tell, if it cannot."""

    verdict: Verdict
    reason: str
    needs: int | None = None


class Gain(NamedTuple):
    """What one model gains over another in a figure, both judged on the same images.

    ``value`` is the gain, a difference of fractions that is positive where the first model is
    better, with its 95 % interval ``low`` to ``high``. ``mine`` and ``theirs`` are the figures of
    both. ``spread`` is half the width of the bootstrap interval; ``effective`` is the number of
    independent images that weigh as much as these do (groups, classes of few images). ``same``:
    both models gave the same answers. ``origin`` is where the answers come from: ``test/``,
    ``out_of_fold/`` or ``rehearsal/``. ``where`` tells in words what was compared, and ``unit``
    what is counted in ``number``.
    """

    figure: str
    value: float
    low: float
    high: float
    mine: float
    theirs: float
    spread: float
    effective: float
    number: int
    same: bool = False
    origin: str = "test/"
    where: str = ""
    unit: str = "test images"


def judge_gain(gain: Gain, allowed: float, said: str = "") -> Decision:
    """Say whether a loss beyond an allowance is shown, excluded, or neither.

    With the gain's interval ``[low, high]`` and the allowance ``a``: refused if ``high < -a``
    (harm is shown), passed if ``low >= -a`` (harm is excluded), else "cannot tell"; so it is too
    where a figure is no number.

    Args:
        gain: What the challenger gains.
        allowed: Largest allowed loss in points (hundredths).
        said: What the reason begins with, by default the figure with the values of both models.

    Example:
        >>> two = Gain("accuracy", -0.04, -0.06, -0.02, 0.80, 0.84, 0.02, 900.0, 900)
        >>> judge_gain(two, 1.0).reason
        'test/accuracy 0.8000 against 0.8400: -4.00 points [-6.00, -2.00], allowed -1.00'
        >>> judge_gain(two, 1.0).verdict, judge_gain(two, 6.0).verdict
        ('refused', 'passed')
        >>> judge_gain(two, 3.0)[::2]
        ('cannot tell', 3300)
    """
    limit = allowed / 100
    odd = not_a_number(gain)
    if odd:
        return Decision("cannot tell", odd)
    if gain.same:
        return Decision("passed", f"{gain.origin}{gain.figure}{gain.where}: the same answers")
    both = f"{gain.origin}{gain.figure} {gain.mine:.4f} against {gain.theirs:.4f}"
    reason = (
        f"{said or both}{gain.where}: {100 * gain.value:+z.2f} points "
        f"[{100 * gain.low:+z.2f}, {100 * gain.high:+z.2f}], allowed {-allowed:.2f}"
    )
    # 1e-9, because a loss that equals the limit up to rounding is allowed
    if gain.high < -limit - 1e-9:
        return Decision("refused", reason)
    if gain.low >= -limit - 1e-9:
        return Decision("passed", reason)
    needs = images_needed(gain, limit)
    loss = f"a loss of more than {allowed:.2f} points is neither shown nor excluded"
    return Decision(
        "cannot tell", f"{reason}; {loss}: that needs about {needs:,} {gain.unit}", needs
    )


def not_a_number(gain: Gain) -> str:
    """Return which figure of a gain is no number, so that nothing can be told; empty: none.

    Example:
        >>> told = Gain("accuracy", 0.01, 0.0, 0.02, 0.81, 0.80, 0.01, 900.0, 900)
        >>> not_a_number(told._replace(mine=math.nan))
        'test/accuracy nan against 0.8000: the figure of the newer version is no number (nan)'
        >>> not_a_number(told)
        ''
    """
    figures = {
        "the figure of the newer version": gain.mine,
        "the figure of the other version": gain.theirs,
        "the gain": gain.value,
        "an end of its interval": gain.low + gain.high,
        "the spread of its interval": gain.spread,
    }
    both = f"{gain.origin}{gain.figure} {gain.mine:.4f} against {gain.theirs:.4f}{gain.where}"
    found = (
        f"{both}: {what} is no number ({value})"
        for what, value in figures.items()
        if not math.isfinite(value)
    )
    return next(found, "")


class Rate(NamedTuple):
    """A share of test images of a band of classes, with its 95 % interval."""

    band: str
    value: float
    low: float
    high: float
    effective: float
    number: int


def judge_rate(rate: Rate, limit: float) -> Decision:
    """Say whether a rate is above a limit, below it, or neither is shown.

    Refused if the whole interval lies above the limit, passed if none of it does; a rate that is no
    number tells neither.

    Example:
        >>> judge_rate(Rate("few", 0.25, 0.12, 0.45, 40, 40), 0.1).reason
        'few 0.250 [0.120, 0.450] of 40 images'
        >>> judge_rate(Rate("few", 0.25, 0.12, 0.45, 40, 40), 0.2)[::2]
        ('cannot tell', 510)
    """
    shown = (
        f"{rate.band} {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] of {rate.number} images"
    )
    if not math.isfinite(rate.value + rate.low + rate.high):
        return Decision("cannot tell", f"{shown} is no number")
    if rate.low > limit:
        return Decision("refused", shown)
    if rate.high <= limit:
        return Decision("passed", shown)
    distance = max(abs(rate.value - limit), limit / 4, SMALLEST_STEP)
    needed = POWER * (Z / distance) ** 2 * limit * (1 - limit) * rate.number / rate.effective
    needs = _two_digits(max(needed, rate.number + 1))
    return Decision("cannot tell", f"{shown} (needs about {needs:,})", needs)


def images_needed(gain: Gain, limit: float) -> int:
    """Return about how many images would tell, if the true gain is the one that was found.

    Half the interval has to be narrower than the distance of gain and limit, in four of five
    samples. The bootstrap's part of it shrinks with the root of the number; that of images which
    all agree (`matched_interval`) shrinks with the number. Rounded up to two digits.

    Args:
        gain: A gain that could not be told from the limit.
        limit: Largest allowed loss, a fraction.
    """
    distance = max(abs(gain.value + limit), limit / 2, SMALLEST_STEP)
    by_spread = POWER * (gain.spread / distance) ** 2
    by_number = (Z / distance - 2) / gain.effective
    needed = max(gain.number * max(by_spread, by_number), gain.number + 1)
    return _two_digits(needed)


def _two_digits(number: float) -> int:
    """Round up to two digits."""
    step = int(10 ** max(0, math.floor(math.log10(number)) - 1))
    return math.ceil(number / step - 1e-9) * step


def matched_interval(value: float, spread: float, effective: float) -> tuple[float, float]:
    """Return the 95 % interval of a paired gain that few images call for.

    A bootstrap of few images is too sure: six images on which two models agree do not show that
    they always do, and five losses without a win hardly show a loss. Half an image is added to each
    of the four cells of the matched table. With the gain ``g``, its variance ``v`` and ``n``
    images::

        g' = g n / (n + 2),  v' = (n^2 v + n g^2 + 1 - n^2 g^2 / (n + 2)) / (n + 2)^2

    and the interval is ``g' +- 1.96 sqrt(v')``.

    Args:
        value: The gain, -1 to 1.
        spread: Half the width of its bootstrap interval, which gives the variance.
        effective: Number of independent images.

    Source:
        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24.

    Example:
        >>> low, high = matched_interval(0.0, 0.0, 6)
        >>> round(low, 3), round(high, 3)
        (-0.245, 0.245)
    """
    more = effective + 2
    squares = (effective * spread / Z) ** 2 + effective * value**2
    variance = (squares + 1 - (effective * value) ** 2 / more) / more**2
    middle, half = value * effective / more, Z * math.sqrt(variance)
    return middle - half, middle + half
