"""Floors: a version whose metric is no number takes the best champion's place in none."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.registry.comparison import Comparison
from orchestrator.registry.floors import best_champions, keep_best
from tests.orchestrator.registry.test_promote import ACCURACY, STRICT, Desk

pytestmark = [
    # MLflow's own use of SQLAlchemy.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    # MLflow's own use of pandas.
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    # The served model takes several forms of input and checks them itself.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]


def test_a_version_without_a_number_leaves_the_best_one_as_the_floor(tmp_path: Path) -> None:
    """Image by image a NaN is "cannot tell", so such a version may become champion."""
    desk, nan = Desk(tmp_path, "floors"), float("nan")
    for value in (0.90, 0.91):
        desk.challenge(value, gates=STRICT)

    def kept(mine: dict[str, float], theirs: dict[str, float]) -> dict[str, str]:
        keep_best(
            desk.registry,
            desk.model,
            "2",
            champion="1",
            comparison=Comparison(mine, theirs),
            floors={},
            gates=STRICT,
            refusing=[],
        )
        return best_champions(desk.registry, desk.model, "2")

    assert kept({ACCURACY: nan}, {ACCURACY: 0.9}) == {ACCURACY: "1"}
    assert kept({}, {ACCURACY: 0.9}) == {ACCURACY: "1"}
    assert kept({ACCURACY: 0.8}, {ACCURACY: 0.9}) == {ACCURACY: "1"}
    assert kept({ACCURACY: 0.9}, {ACCURACY: 0.9}) == {}
    assert kept({ACCURACY: 0.8}, {ACCURACY: nan}) == kept({ACCURACY: nan}, {}) == {}
