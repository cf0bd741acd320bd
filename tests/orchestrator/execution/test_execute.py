"""One recipe from two folders: one set of stage results, and a model that names no folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.execution.execute import RecipeResult, execute, export_model
from orchestrator.execution.store_executor import cached_views
from orchestrator.store.stage_store import StageStore
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.tracking_queue import QueueReader, QueueWriter
from tests.helpers.pictures import draw_folder
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.inference.card import describe_model
from trainables.settings import flatten

QUICK = (
    "data.image_size=8",
    "data.validation_per_class=4",
    "data.stream.unrelated=0",
    "classify.training.epochs=1",
    "update.training.epochs=1",
    "score.threshold={known_recall: {keep: 0.7}}",
)


def recipe_of(source: object) -> Experiment:
    return load_experiment(None, [f"data.source=folder:{source}", *QUICK])


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with ``flowers`` and a folder ``sub`` beside it."""
    (tmp_path / "here/sub").mkdir(parents=True)
    draw_folder(tmp_path / "here/flowers", classes=6, train=16)
    return tmp_path / "here"


def test_two_folders_are_one_set_of_keys_and_the_model_names_none(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(source: object) -> RecipeResult:
        return execute(recipe_of(source), StageStore(storage), Context())

    storage = str(tmp_path / "runs")
    monkeypatch.chdir(here)
    first = run("flowers")
    monkeypatch.chdir("sub")
    for again in (run("../flowers"), run(here / "flowers")):
        assert [use.key for use in again.uses] == [use.key for use in first.uses]
        assert all(use.reused for use in again.uses)
    recipe = recipe_of(here / "flowers")
    export_model(recipe.model_dump(mode="json"), {}, storage, tmp_path / "model")
    card = describe_model(tmp_path / "model", cached_views(recipe.data))
    assert card.source == "folder:flowers"
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "model").glob("*.*")]
    assert len(texts) == 2
    assert not any(str(tmp_path) in text for text in texts)
    assert load_experiment(tmp_path / "model/experiment.yaml").data.source == "folder:flowers"


def test_the_tracker_is_sent_last_names(tmp_path: Path) -> None:
    spool = QueueWriter(tmp_path / "spool")
    tracker = Tracker("nowhere", spool, None)  # type: ignore[arg-type]  (it sends nothing here)
    recipe = recipe_of(tmp_path / "flowers")
    tracker.start_trial("one", 1, params=flatten(recipe), experiment=recipe.model_dump(mode="json"))
    reader = QueueReader(spool.folder)
    sent = str([entry.document for entry in reader.pending()])
    reader.close()
    assert "folder:flowers" in sent
    assert str(tmp_path) not in sent
