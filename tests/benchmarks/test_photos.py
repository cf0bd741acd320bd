"""The benchmark of photos: what its goals are judged by."""

from typing import Any

import pytest

from benchmarks.photos import FINE_TUNED, PEERS, WINNER, by_row, page, verdicts


def line(row: str, seed: int, balanced: float, cpu: float = 1.0) -> dict[str, Any]:
    stamp = {"commit": "c0ffee", "processor": "a processor"}
    return {"row": row, "seed": seed, "balanced": balanced, "cpu": cpu, **stamp}


LINES = [
    *(line(WINNER, seed, value, 10.0) for seed, value in enumerate([80.0, 82.0, 84.0])),
    *(line(PEERS[0], seed, value) for seed, value in enumerate([76.0, 80.0, 82.0])),
    *(line(PEERS[1], seed, value) for seed, value in enumerate([80.5, 82.5, 84.5])),
]


def test_points_are_differences_paired_by_seed_with_a_t_interval() -> None:
    plain, balanced = verdicts(by_row(LINES))
    # (4, 2, 2): mean 2.667, deviation 1.155, t of 2 degrees of freedom 4.303
    assert plain["difference"] == pytest.approx([2.667, -0.202, 5.536], abs=1e-3)
    assert (plain["ratio"], plain["passed"]) == (pytest.approx(2.667, abs=1e-3), False)
    # half a point below the balanced form on each seed is below it beyond noise
    assert balanced["difference"] == pytest.approx([-0.5, -0.5, -0.5])
    assert not balanced["passed"]


def test_a_rival_is_compared_on_the_seeds_that_it_has() -> None:
    lines = [*LINES, line(FINE_TUNED, 2, 84.5, 300.0), line(FINE_TUNED, 1, 80.0, 100.0)]
    *_, points, time = verdicts(by_row(lines))
    # 84 - 84.5 and 82 - 80; t of 1 degree of freedom 12.706
    assert points["difference"][0] == pytest.approx(0.75)
    assert points["ratio"] == pytest.approx(0.75 + 12.706 * 1.25, abs=1e-2)
    assert (time["ratio"], time["passed"]) == (20.0, True)
    assert f"CPU time of {FINE_TUNED} over that of `{WINNER}`: 20.0; goal 5 reached." in page(lines)
