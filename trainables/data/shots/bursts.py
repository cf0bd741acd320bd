"""Bursts: images of one scene, by the time at which they were taken or by running numbers.

A camera that takes an image every three seconds for an hour (a time-lapse, a video, a turntable)
would take one burst of a thousand. So a burst lasts a minute at most, and ends where the class
changes: beyond that images stay together where they are also alike, as running numbers do.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from trainables.data.shots.grouping import Link

SECONDS = 5.0  # between two images of a burst, at most
LONGEST = 60.0  # seconds from the first image of a burst to its last, at most
SAME_MOMENT = 30  # images of one capture time above which the time is no camera's
_NUMBERED = re.compile(r"(.*?)([0-9]{1,15})([^0-9]*)\Z", re.DOTALL)


class Timely(NamedTuple):
    """Pairs of images that one camera took at most 5 s apart, one after the other.

    Those ``certain`` are of one burst; those ``if_alike`` only where they also look so.
    """

    certain: list[Link]
    if_alike: list[Link]


def links_by_time(
    taken: Sequence[float], cameras: Sequence[str], class_names: Sequence[str]
) -> Timely:
    """Link each image to the one that the same camera took before it, at most 5 s earlier.

    A capture time that more than 30 images share was written by a program; it links nothing.

    Args:
        taken: Capture times in seconds; NaN where a file tells none.
        cameras: Make and model of the camera.
        class_names: Their classes; empty for an image of which nobody knows it.

    Example:
        >>> links_by_time([10.0, 3.0, 14.5, math.nan, 11.0], ["a", "a", "a", "a", "b"], [""] * 5)
        Timely(certain=[(0, 2)], if_alike=[])
        >>> links_by_time([0.0, 1.0, 2.0], [""] * 3, ["cat", "cat", "dog"])
        Timely(certain=[(0, 1)], if_alike=[(1, 2)])
    """
    shared = {moment for moment, n in Counter(taken).items() if n > SAME_MOMENT}
    known = [n for n, t in enumerate(taken) if not math.isnan(t) and t not in shared]
    ordered = sorted(known, key=lambda n: (cameras[n], taken[n], n))
    found, began = Timely([], []), ordered[0] if ordered else 0
    for one, other in pairwise(ordered):
        near = cameras[one] == cameras[other] and taken[other] - taken[one] <= SECONDS
        classes = {class_names[one], class_names[other]} - {""}
        goes_on = near and len(classes) < 2 and taken[other] - taken[began] <= LONGEST
        if near:
            pairs = found.certain if goes_on else found.if_alike
            pairs.append((min(one, other), max(one, other)))
        began = began if goes_on else other
    return found


def links_by_number(
    paths: Sequence[str], class_names: Sequence[str], taken: Sequence[float]
) -> list[Link]:
    """Return images of one class and folder whose names differ by 1 in their last number.

    They are a burst only where they are also alike. Where capture times say that they are no burst
    they are left out.

    Example:
        >>> names = ["x/IMG_0009.jpg", "x/IMG_0010.jpg", "x/IMG_0012.jpg", "y/IMG_0011.jpg"]
        >>> links_by_number(names, ["cat"] * 4, [math.nan] * 4)
        [(0, 1)]
        >>> links_by_number(names, ["cat"] * 4, [0.0, 60.0, 120.0, 180.0])
        []
    """
    numbered: dict[tuple[str, str, str, str], list[tuple[int, int]]] = {}
    for place, path in enumerate(paths):
        folder, name = os.path.split(path)
        match = _NUMBERED.match(name)
        if match:
            key = (class_names[place], folder, match[1], match[3])
            numbered.setdefault(key, []).append((int(match[2]), place))
    pairs = [
        (min(one, other), max(one, other))
        for found in map(sorted, numbered.values())
        for (low, one), (high, other) in pairwise(found)
        if high - low == 1
    ]
    return [(a, b) for a, b in pairs if not abs(taken[a] - taken[b]) > SECONDS]
