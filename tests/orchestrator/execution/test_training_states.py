"""A longer training takes over what a shorter one trained, through the store, whoever asks."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow.fs import FileSystem

from orchestrator.execution.execute import RecipeResult, execute
from orchestrator.execution.training_states import TrainingStates, discard_states, states_of
from orchestrator.records import StageUse
from orchestrator.store.filesystem import LocalBackend, RemoteBackend, StorageBackend
from orchestrator.store.result_cache import result_cache_of
from orchestrator.store.stage_store import StageStore
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.pipeline import plan
from trainables.settings import assign
from trainables.training.checkpoints import Checkpoints

EPOCHS = 5
FAMILY = "states/classify/" + "a" * 64


@pytest.fixture(scope="module")
def base() -> Experiment:
    sets = [
        f"classify.training.epochs={EPOCHS}",
        "update.training.epochs=1",
        "score.threshold={known_recall: {keep: 0.8}}",
    ]
    return load_experiment("experiments/digits.yaml", sets)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The trunk's epochs that were really trained, in order."""
    epochs: list[int] = []
    real = Checkpoints.save_if_due

    def noted(self: Checkpoints, reports: list[dict[str, float]], **how: bool) -> None:
        if self.name == "classify":
            epochs.append(len(reports))
        real(self, reports, **how)

    monkeypatch.setattr(Checkpoints, "save_if_due", noted)
    return epochs


def go(base: Experiment, storage: Path, **changes: Any) -> RecipeResult:
    """Run a recipe as another process would: with nothing in memory."""
    result_cache_of(str(storage)).clear()
    named = {name.replace("__", "."): value for name, value in changes.items()}
    recipe = assign(base, named)
    return execute(recipe, StageStore(str(storage)), Context(seed=recipe.seed))


def classified(outcome: RecipeResult) -> StageUse:
    return next(use for use in outcome.uses if use.stage == "classify")


def states(storage: Path) -> list[Path]:
    return sorted(path.parent for path in storage.glob("states/classify/*/*/manifest.json"))


def test_no_epoch_is_trained_twice_and_the_result_is_the_same(
    base: Experiment, tmp_path: Path, trained: list[int]
) -> None:
    expected = go(base, tmp_path / "alone")
    assert trained == [1, 2, 3, 4, 5]
    trained.clear()
    storage = tmp_path / "runs"
    for until, continued in ((2, 0), (4, 2), (0, 4)):
        outcome = go(base, storage, classify__training__until=until)
        use = classified(outcome)
        assert (use.reused, use.continued) == (False, continued)
        assert [row["epoch"] for row in use.history] == list(range(1, (until or EPOCHS) + 1))
    assert trained == [1, 2, 3, 4, 5]
    assert [use.key for use in outcome.uses] == [use.key for use in expected.uses]
    assert outcome.metrics == expected.metrics
    for name, tensor in expected.artifacts["backbone"].state.items():
        assert torch.equal(outcome.artifacts["backbone"].state[name], tensor), name
    assert states(storage) == [], "the whole training is stored"


def test_of_a_training_that_stops_half_way_the_longest_state_stays(
    base: Experiment, tmp_path: Path, trained: list[int]
) -> None:
    for until in (1, 2, 4):
        go(base, tmp_path, classify__training__until=until)
        assert [int(path.name) for path in states(tmp_path)] == [until]
    go(base, tmp_path)
    go(base, tmp_path, classify__training__until=3)
    assert states(tmp_path) == [], "who needs it has the whole training's result"
    assert trained == [1, 2, 3, 4, 5, 1, 2, 3]


def test_another_recipe_on_the_same_trunk_goes_on_too(
    base: Experiment, tmp_path: Path, trained: list[int]
) -> None:
    go(base, tmp_path, classify__training__until=3)
    trained.clear()
    other = go(base, tmp_path, rebalance__method="tau_norm", classify__training__until=3)
    assert classified(other).reused
    longer = go(base, tmp_path, rebalance__method="tau_norm", classify__training__until=4)
    assert (classified(longer).reused, classified(longer).continued) == (False, 3)
    assert trained == [4]
    shorter = go(base, tmp_path, classify__training__until=2)
    assert classified(shorter).continued == 0, "a longer training does not say what was before"


@pytest.mark.parametrize("change", [{"classify__training__lr": 0.01}, {"seed": 1}])
def test_another_training_begins_anew(
    base: Experiment, tmp_path: Path, trained: list[int], change: dict[str, Any]
) -> None:
    go(base, tmp_path, classify__training__until=2)
    trained.clear()
    assert classified(go(base, tmp_path, classify__training__until=3, **change)).continued == 0
    assert trained == [1, 2, 3]


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-9]), Path.unlink])
def test_a_damaged_state_is_moved_away_and_the_one_before_is_used(
    base: Experiment,
    tmp_path: Path,
    trained: list[int],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], Any],
) -> None:
    go(base, tmp_path, classify__training__until=2)
    (longer,) = states(tmp_path)
    kept = tmp_path / "kept"
    longer.rename(kept)
    go(base, tmp_path, classify__training__until=1)
    kept.rename(longer)  # as one that was published while the shorter one trained
    path = next(longer.glob("*.checkpoint"))
    damage(path)
    trained.clear()
    with caplog.at_level(logging.WARNING):
        outcome = go(base, tmp_path, classify__training__until=3)
    assert classified(outcome).continued == 1
    assert trained == [2, 3]
    assert "is damaged; moved away" in caplog.text
    assert [int(path.name) for path in states(tmp_path)] == [3]


def test_a_state_holds_no_code_and_no_scratch_is_left(base: Experiment, tmp_path: Path) -> None:
    go(base, tmp_path, classify__training__until=2)
    (folder,) = states(tmp_path)
    payload = next(folder.glob("*.checkpoint")).read_bytes()[32:]
    (tmp_path / "plain.pt").write_bytes(payload)
    assert set(torch.load(tmp_path / "plain.pt", weights_only=True)) == {
        "modules", "averages", "optimizer", "reports",
    }  # fmt: skip
    assert not list((tmp_path / "scratch").glob("*/*"))


def test_only_a_single_training_has_states(base: Experiment) -> None:
    found = {
        step.stage: states_of(step, dict.fromkeys(step.inputs, "x"), 0).folder
        for step in plan(assign(base, {"classify.training.until": 2}))
    }
    assert [stage for stage, folder in found.items() if folder] == ["pretrain", "classify"]


class TestPlaces:
    @pytest.fixture(params=["folder", "remote"])
    def backend(self, request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
        if request.param == "folder":
            return LocalBackend(tmp_path / "storage")
        filesystem, _ = FileSystem.from_uri("mock:///")
        return RemoteBackend(filesystem, "bucket", "mock:///bucket")

    def scratch(self, root: Path, name: str, *epochs: int) -> Path:
        """Make a stage's scratch folder with checkpoints of these epochs."""
        folder = root / name
        folder.mkdir()
        for epoch in epochs:
            (folder / f"classify.{epoch:06d}.checkpoint").write_text(f"{name} {epoch}")
        return folder

    def test_the_longest_that_is_not_too_long_is_taken(
        self, backend: StorageBackend, tmp_path: Path
    ) -> None:
        for epochs in (8, 4, 2):  # shorter ones that come later stay
            made = self.scratch(tmp_path, f"made{epochs}", epochs - 1, epochs)
            TrainingStates(FAMILY, epochs).keep(backend, made)
        for until, expected in ((1, 0), (2, 2), (3, 2), (7, 4), (9, 8), (0, 8)):
            folder = tmp_path / f"new{until}"
            folder.mkdir()
            assert TrainingStates(FAMILY, until).resume(backend, folder) == expected
            names = sorted(path.name for path in folder.iterdir())
            checkpoint = f"classify.{expected:06d}.checkpoint"
            assert names == ([checkpoint] if expected else [])
            if expected:
                assert (folder / checkpoint).read_text() == f"made{expected} {expected}"

    def test_an_attempt_that_got_further_is_kept(
        self, backend: StorageBackend, tmp_path: Path
    ) -> None:
        TrainingStates(FAMILY, 4).keep(backend, self.scratch(tmp_path, "made", 4))
        further = self.scratch(tmp_path, "further", 6)
        assert TrainingStates(FAMILY, 8).resume(backend, further) == 4
        assert [path.name for path in further.iterdir()] == ["classify.000006.checkpoint"]
        behind = self.scratch(tmp_path, "behind", 3)
        assert TrainingStates(FAMILY, 8).resume(backend, behind) == 4
        assert (behind / "classify.000004.checkpoint").read_text() == "made 4"

    def test_nothing_is_kept_of_what_did_not_get_there(
        self, backend: StorageBackend, tmp_path: Path
    ) -> None:
        assert backend.names(FAMILY) == []
        TrainingStates(FAMILY, 4).keep(backend, self.scratch(tmp_path, "short", 3))
        TrainingStates(FAMILY, 0).keep(backend, self.scratch(tmp_path, "whole", 4))
        assert backend.names(FAMILY) == []

    def test_a_longer_state_takes_the_place_of_shorter_ones(
        self, backend: StorageBackend, tmp_path: Path
    ) -> None:
        for epochs in (2, 4, 8):
            TrainingStates(FAMILY, epochs).keep(
                backend, self.scratch(tmp_path, f"made{epochs}", epochs)
            )
            assert backend.names(FAMILY) == [f"{epochs:06d}"]
        TrainingStates(FAMILY, 16).end(backend)
        assert backend.names(FAMILY) == ["000008"], "that was not the whole training"
        TrainingStates(FAMILY).end(backend)
        assert backend.names(FAMILY) == []

    def test_only_states_of_these_results_that_nobody_needs_are_discarded(
        self, backend: StorageBackend, tmp_path: Path
    ) -> None:
        for number, result in enumerate(("poor", "shared", "another")):
            states = TrainingStates(FAMILY[:-1] + str(number), 4, result)
            states.keep(backend, self.scratch(tmp_path, result, 4))
        assert discard_states(backend, ["poor", "shared"], needed=["shared", "absent"]) == 1
        left = [number for number in range(3) if backend.names(FAMILY[:-1] + str(number))]
        assert left == [1, 2]
        assert discard_states(backend, ["poor"]) == 0

    def test_a_state_that_is_removed_while_it_is_read_is_none(
        self, backend: StorageBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        TrainingStates(FAMILY, 4).keep(backend, self.scratch(tmp_path, "made", 4))
        real = type(backend).fetched

        def late(self: Any, folder: str, files: Any) -> Any:
            self.remove(folder)
            return real(self, folder, files)

        monkeypatch.setattr(type(backend), "fetched", late)
        (tmp_path / "new").mkdir()
        assert TrainingStates(FAMILY, 8).resume(backend, tmp_path / "new") == 0
        assert not list((tmp_path / "new").iterdir())
        assert backend.names("damaged/states/classify") == []

    def test_the_first_state_stays(self, backend: StorageBackend, tmp_path: Path) -> None:
        for name in ("first", "second"):
            TrainingStates(FAMILY, 4).keep(backend, self.scratch(tmp_path, name, 4))
        (tmp_path / "new").mkdir()
        assert TrainingStates(FAMILY, 5).resume(backend, tmp_path / "new") == 4
        assert (tmp_path / "new/classify.000004.checkpoint").read_text() == "first 4"


def test_a_half_upload_is_no_state(tmp_path: Path) -> None:
    filesystem, _ = FileSystem.from_uri("mock:///")
    backend = RemoteBackend(filesystem, "bucket", "mock:///bucket")
    filesystem.create_dir(f"bucket/{FAMILY}/000004")
    assert TrainingStates(FAMILY, 5).resume(backend, tmp_path) == 0
