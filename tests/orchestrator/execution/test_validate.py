"""A recipe in its validation worlds: mean metrics, trainings once, reports once."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.choice.selection import Answers
from orchestrator.execution.execute import execute, validate
from orchestrator.store.stage_store import StageStore
from tests.helpers import ROOT
from trainables.context import Context
from trainables.experiment import load_experiment
from trainables.settings import assign

RECIPE = load_experiment(
    ROOT / "experiments" / "digits.yaml",
    [
        "data.image_size=8",
        "data.novel_classes=5",
        "data.validation_novel_classes=2",
        "classify.training.epochs=2",
        "update.training.epochs=2",
        "data.stream={known: 40, novel: 60, unrelated: 0}",
    ],
)


def test_metrics_are_means_over_both_worlds_and_trunks_are_trained_once(tmp_path: Path) -> None:
    store, epochs = StageStore(str(tmp_path)), []
    context = Context(report=lambda metrics, epoch: epochs.append(epoch))
    found, arrays = validate(RECIPE, store, context)
    worlds = [
        execute(assign(RECIPE, {"data.world": world}), store, Context())
        for world in ("validation", "validation_swapped")
    ]
    assert all(use.reused for result in worlds for use in result.uses)
    first, second = (result.metrics for result in worlds)
    assert found.metrics.keys() == first.keys() & second.keys()
    for name, value in found.metrics.items():
        assert value == pytest.approx((first[name] + second[name]) / 2), name
    assert first["evaluate/novelty/auroc"] != second["evaluate/novelty/auroc"]
    stages = [use.stage for use in found.uses]
    assert (stages.count("classify"), stages.count("rebalance")) == (1, 1)
    assert (stages.count("score"), stages.count("evaluate")) == (2, 2)
    assert len({use.key for use in found.uses}) == len(found.uses)
    assert epochs[:2] == [1, 2], "the classifier's epochs, reported by the first world alone"
    joined = Answers.of(arrays)
    assert len(set(joined.labels.tolist())) == 5 + 1 + 1  # known, one new class of each world


def test_a_world_of_the_recipe_does_not_matter(tmp_path: Path) -> None:
    store = StageStore(str(tmp_path))
    one, _ = validate(RECIPE, store, Context())
    tested, _ = validate(assign(RECIPE, {"data.world": "test"}), store, Context())
    assert tested.metrics == one.metrics, "a search is never judged on the test"
