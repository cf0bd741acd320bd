"""New classes that arrive in two phases: the second round learns both, the first one its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import ROOT
from trainables.context import Context
from trainables.data.views import build_views
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import run
from trainables.settings import assign

SETS = [
    "data.novel_classes=[6, 4, 0]",
    "data.validation_novel_classes=[4]",
    "data.phases=2",
    "data.world=test",
    "rebalance.method=ridge",
    "update.method=ridge",
    "score.threshold={known_recall: {keep: 0.9}}",
]


@pytest.fixture(scope="module")
def base() -> Experiment:
    return load_experiment(ROOT / "experiments" / "digits.yaml", SETS)


def round_of(base: Experiment, phase: int) -> tuple[list[str], dict[str, float]]:
    """Return the new classes of a round, and the updated model's accuracy of each class by name.

    It is told how many new classes there are: an estimate may take two similar ones for one.
    """
    recipe = assign(base, {"data.phase": phase, "discover.num_new_clusters": phase})
    views = build_views(recipe.data)
    new = [str(name) for name in views.summary["novel_class_names"]]
    names = [*map(str, views.summary["known_class_names"]), *new]
    found: dict[str, Any] = run(recipe, Context(seed=1), views=views)["evaluation"].arrays
    right = (found["updated"] == found["labels"]).double()
    accuracy = {n: float(right[found["labels"] == c].mean()) for c, n in enumerate(names)}
    return new, accuracy


def test_a_round_over_two_phases_learns_both(base: Experiment) -> None:
    first, alone = round_of(base, 1)
    both, accuracy = round_of(base, 2)
    assert (first, sorted(both)) == (["6"], ["0", "6"])
    assert alone.keys() == accuracy.keys() - {"0"}
    assert alone["6"] > 0.6
    assert accuracy["6"] > 0.6
    assert accuracy["0"] > 0.6
    known = [name for name in alone if name != "6"]
    assert len(known) == 7
    for found in (alone, accuracy):
        assert sum(found[name] for name in known) / 7 > 0.5
