"""Trainings of several seeds at once fill the store under the keys of the recipes alone."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.ahead import train_ahead
from orchestrator.execute import execute
from orchestrator.leases import FileLeases
from orchestrator.records import StageUse
from orchestrator.reproduce import one_by_one, usual_fuse
from orchestrator.store import Computed, StageStore
from orchestrator.table_order import StartOrder, num_seeds
from orchestrator.table_tasks import run_task
from orchestrator.tables import Recipe, Wanted, load_table, recipes
from trainables.artifacts import Backbone, Classifier
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "data.max_per_class": 30,
    "classify.training.epochs": 1,
    "classify.training.lr": 0.001,
    "classify.training.batch_size": 64,
    "update.training.epochs": 1,
}


def seeds(count: int, **changes: Any) -> list[Experiment]:
    base = assign(load_experiment("experiments/digits.yaml"), SMALL | changes)
    return [assign(base, {"seed": seed}) for seed in range(count)]


def trained(recipe: Experiment, store: StageStore) -> tuple[StageUse, Classifier]:
    """Run a recipe alone and return its use of stage 2, and what it gave."""
    outcome = execute(recipe, store, Context(seed=recipe.seed))
    return next(use for use in outcome.uses if use.stage == "classify"), outcome.artifacts[
        "classifier"
    ]


def test_recipes_find_what_was_trained_ahead(tmp_path: Path) -> None:
    own = seeds(2)
    filled, alone = (StageStore(str(tmp_path / name)) for name in ("filled", "alone"))
    keys = train_ahead(own, filled, CPU)
    assert filled.stats().computed == 4  # and what comes before
    for key, recipe in zip(keys, own, strict=True):
        found, classifier = trained(recipe, filled)
        expected, other = trained(recipe, alone)
        assert found.reused
        assert not expected.reused
        assert found.key == expected.key == key
        (fused,) = (row.pop("classify/steps_fused") for row in found.history)
        assert fused == expected.history[0]["classify/steps"]
        assert found.history == [pytest.approx(row, rel=1e-3) for row in expected.history]
        for name, tensor in other.state.items():
            torch.testing.assert_close(classifier.state[name], tensor, rtol=1e-3, atol=1e-4)
        assert torch.equal(classifier.class_counts, other.class_counts)
    assert train_ahead(own, filled, CPU) == []
    assert not list((tmp_path / "filled/leases").rglob("*.lease"))
    assert not list((tmp_path / "filled/scratch/classify").iterdir())


def test_what_another_one_trains_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, store = seeds(3), StageStore(str(tmp_path))
    key = trained(own[1], StageStore(str(tmp_path / "elsewhere")))[0].key
    other = FileLeases(tmp_path / "leases").try_acquire(f"classify/{key}")
    assert other is not None
    keys = train_ahead(own, store, CPU)
    assert len(keys) == 2
    assert key not in keys
    with caplog.at_level(logging.INFO, "orchestrator"):
        assert train_ahead(own, store, CPU) == []
    other.release()
    with caplog.at_level(logging.INFO, "orchestrator"):
        assert train_ahead(own, store, CPU) == []
    assert caplog.messages == ["classify: each trains alone: there is only one"]
    assert not trained(own[1], store)[0].reused


def test_what_can_not_be_fused_is_left_to_be_trained_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StageStore(str(tmp_path))
    with caplog.at_level(logging.INFO, "orchestrator"):
        assert train_ahead(seeds(2, **{"classify.mixing": "mixup"}), store, CPU) == []
    assert caplog.messages == ["classify: each trains alone: mixing is 'mixup'; fused: 'none'"]
    assert store.stats().asked == 0


@pytest.mark.parametrize(
    ("stage", "changes"), [("pretrain", {"pretrain.method": "simclr"}), ("classify", {})]
)
def test_what_diverges_is_left_to_its_own_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: str, changes: dict[str, Any]
) -> None:
    far = {"lr": 1e30, "epochs": 3, "precision": "float32", "batch_size": 64}
    changes = changes | {f"{stage}.training.{name}": value for name, value in far.items()}
    with caplog.at_level(logging.INFO, "orchestrator"):
        assert train_ahead(seeds(2, **changes), StageStore(str(tmp_path)), CPU) == []
    told = [line.partition(": loss is")[0] for line in caplog.messages]
    assert told[:2] == 2 * [f"classify: one is left to its own run: {stage}"]


def test_a_group_that_ends_early_leaves_the_states_that_each_goes_on_from(tmp_path: Path) -> None:
    whole, store = seeds(2, **{"classify.training.epochs": 2}), StageStore(str(tmp_path))
    train_ahead([assign(own, {"classify.training.until": 1}) for own in whole], store, CPU)
    assert [trained(recipe, store)[0].continued for recipe in whole] == [1, 1]
    again = seeds(2, **{"classify.training.epochs": 2, "classify.training.lr": 0.002})
    train_ahead([assign(own, {"classify.training.until": 1}) for own in again], store, CPU)
    (one, two) = train_ahead(again, store, CPU)
    for key, recipe in zip((one, two), again, strict=True):
        use, _ = trained(recipe, store)
        assert (use.key, use.reused, use.continued) == (key, True, 1)
        assert [row["epoch"] for row in use.history] == [1.0, 2.0]
    assert not list((tmp_path / "states").rglob("manifest.json"))


def test_the_store_keeps_nothing_of_a_group_that_fails(tmp_path: Path) -> None:
    store = StageStore(str(tmp_path))
    outputs = {"backbone": Backbone, "classifier": Classifier}

    def fails(folders: object) -> dict[str, Computed]:
        raise ArithmeticError("not finite")

    with pytest.raises(ArithmeticError):
        store.fill("classify", ["a", "b"], outputs, fails)
    assert store.find("classify", "a", outputs) is None
    assert store.fill("classify", ["a", "a"], outputs, lambda folders: {}) == []
    assert not list((tmp_path / "leases").rglob("*.lease"))


# --- in a table -----------------------------------------------------------------------------------


def table(*numbers: int) -> list[Recipe]:
    chosen, folder = load_table("digits_lt")
    changes = [f"{path}={value}" for path, value in SMALL.items()]
    return recipes(chosen, folder, changes, Wanted(seeds=numbers))


def test_a_table_trains_the_trunks_of_its_seeds_together(tmp_path: Path) -> None:
    runs = table(0, 1)
    cells = list(one_by_one(runs, str(tmp_path), fuse=2))
    assert len(cells) == len(runs)
    assert not any(cell.error for cell in cells)
    uses = [use for cell in cells for use in cell.stages if use.stage == "classify"]
    assert all(use.reused for use in uses)
    assert len({use.key for use in uses}) == 2
    apart = [
        use.key
        for cell in one_by_one(runs[:1], str(tmp_path / "apart"))
        for use in cell.stages
        if use.stage == "classify" and not use.reused
    ]
    assert apart == [uses[0].key]


def test_a_task_trains_the_trunks_of_other_seeds_before_its_run(tmp_path: Path) -> None:
    first, *others = (run for run in table(0, 1) if run.row == "CE")
    trees = [run.experiment.model_dump(mode="json") for run in (first, *others)]
    place = {"row": first.row, "factor": first.factor, "seed": first.seed}
    cell = run_task(place, trees[0], str(tmp_path), 0.0, trees)
    assert cell.error is None
    assert [use.reused for use in cell.stages if use.stage == "classify"] == [True]
    assert trained(others[0].experiment, StageStore(str(tmp_path)))[0].reused


def test_on_a_cpu_each_trunk_is_trained_alone_unless_asked() -> None:
    runs = table(0, 1, 5)
    assert num_seeds(runs) == 3
    assert usual_fuse(runs, on_gpu=False) == 1
    assert usual_fuse(runs, on_gpu=True) == 3


def test_trunks_that_are_trained_together_are_given_to_nobody_else() -> None:
    runs = table(0, 1, 2)
    rows = len(runs) // 3
    order = StartOrder(runs, 2)
    first = order.next()
    assert first == 0
    assert order.together(first) == [0, rows]  # the same row of the next seed
    third = order.next()
    assert third == 2 * rows
    assert order.together(third) == []  # nobody is left to go with it
    assert order.next() is None
    order.finished(first)
    started = [order.next() for _ in range(2 * rows - 1)]
    assert sorted(n for n in started if n is not None) == list(range(1, 2 * rows))
    assert all(order.together(n) == [] for n in started if n is not None)
    order.finished(third)
    assert [order.next() for _ in range(rows)] == [*range(2 * rows + 1, 3 * rows), None]


def test_after_a_failure_those_that_are_left_try_again() -> None:
    runs = table(0, 1)
    order = StartOrder(runs, 8)
    first = order.next()
    assert first == 0
    assert order.together(first) == [0, len(runs) // 2]
    order.finished(first, trained=False)
    second = order.next()
    assert second == 1
    assert order.together(second) == [1, len(runs) // 2]
