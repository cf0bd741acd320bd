"""What a fit shows while it runs: lines, and on a terminal bars that are drawn over."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from trainables.errors import readable

LABEL = 11  # columns before what a line says
BAR = 30
LINE_SECONDS = 60.0  # between two lines about one step, where nothing can be drawn over
DRAW_SECONDS = 0.1


class Lines:
    """Writes the lines of a fit to a terminal or a pipe.

    On a terminal the line of a step that runs is drawn over; on a pipe it is written once a minute.

    Args:
        out: Where lines go.
        clock: Seconds, for the time that is left.

    Example:
        >>> import sys
        >>> Lines(sys.stdout).say("photos", "3,412 images in 20 classes")
        photos     3,412 images in 20 classes
    """

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._drawn = False
        self._last = self._began = clock()
        self._first = (0, "")
        self._terminal = out.isatty()

    def say(self, label: str, text: str) -> None:
        """Write one line; an empty label goes on with the line before."""
        self._clear()
        self._write(f"{label:<{LABEL}}{text}\n")

    def plain(self, text: str = "") -> None:
        """Write one line without a label."""
        self._clear()
        self._write(f"{text}\n")

    def step(self, label: str, what: str, done: int, total: int) -> None:
        """Show how far a step is: ``done`` of ``total``."""
        now = self._clock()
        if self._first[1] != label:
            self._first, self._began, self._last = (done, label), now, now
            fresh = True
        else:
            fresh = False
        pause = DRAW_SECONDS if self._terminal else LINE_SECONDS
        if now - self._last < pause and not (fresh and self._terminal) and done < total:
            return
        if done >= total and not self._terminal:
            return
        self._last = now
        text = f"{100 * done // max(total, 1)} %{self._left(now, done, total)}"
        if not self._terminal:
            self._write(f"{label:<{LABEL}}{what}  {text}\n")
            return
        filled = BAR * done // max(total, 1)
        line = f"{label:<{LABEL}}{what}  {'#' * filled}{'-' * (BAR - filled)}  {text}"
        width = shutil.get_terminal_size().columns
        self._out.write(f"\r\x1b[2K{readable(line)[: width - 1]}")
        self._out.flush()
        self._drawn = True

    def _left(self, now: float, done: int, total: int) -> str:
        more = done - self._first[0]
        if more <= 0 or done >= total:
            return ""
        return f"  {duration((now - self._began) / more * (total - done))} left"

    def _clear(self) -> None:
        if self._drawn:
            self._out.write("\r\x1b[2K")
        self._drawn, self._first = False, (0, "")

    def _write(self, text: str) -> None:
        lines = text.split("\n")
        self._out.write("\n".join(readable(line).rstrip() for line in lines))
        self._out.flush()


def duration(seconds: float) -> str:
    """Return seconds as people say them.

    Example:
        >>> duration(0.4), duration(21.2), duration(140), duration(7300)
        ('1 s', '21 s', '2 min 20 s', '2 h 1 min')
    """
    whole = max(1, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
