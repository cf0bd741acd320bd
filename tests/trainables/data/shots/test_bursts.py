"""Bursts by capture times and running numbers, by hand."""

from __future__ import annotations

import math

from trainables.data.shots.bursts import links_by_number, links_by_time


def test_a_time_that_more_than_30_images_share_is_no_cameras() -> None:
    for count, linked in ((30, 29), (31, 0)):
        found = links_by_time([7.0] * count, ["a"] * count, ["cat"] * count)
        assert len(found.certain) == linked
        assert found.if_alike == []
    # beside it, other times count
    found = links_by_time([7.0] * 31 + [8.0, 9.0], ["a"] * 33, ["cat"] * 33)
    assert found.certain == [(31, 32)]


def test_five_seconds_and_a_minute_are_in_a_burst() -> None:
    assert links_by_time([0.0, 5.0], ["a"] * 2, ["cat"] * 2).certain == [(0, 1)]
    assert links_by_time([0.0, 5.01], ["a"] * 2, ["cat"] * 2).certain == []
    times = [5.0 * n for n in range(14)]  # 0 to 65 seconds
    found = links_by_time(times, ["a"] * 14, ["cat"] * 14)
    assert found.certain == [(n, n + 1) for n in range(12)]
    assert found.if_alike == [(12, 13)]


def test_two_cameras_and_unknown_times_link_nothing() -> None:
    found = links_by_time([0.0, 1.0, math.nan, math.nan], ["a", "b", "a", "a"], [""] * 4)
    assert (found.certain, found.if_alike) == ([], [])


def test_running_numbers_differ_by_one_in_one_class_and_folder() -> None:
    names = ["x/a_9.jpg", "x/a_10.jpg", "x/a_12.jpg", "x/b_13.jpg", "x/a_13.png"]
    assert links_by_number(names, ["cat"] * 5, [math.nan] * 5) == [(0, 1)]
    assert links_by_number(names[:2], ["cat", "dog"], [math.nan] * 2) == []
    assert links_by_number(names[:2], ["cat"] * 2, [0.0, 5.0]) == [(0, 1)]
    assert links_by_number(names[:2], ["cat"] * 2, [6.0, 0.0]) == []  # times say it is no burst
