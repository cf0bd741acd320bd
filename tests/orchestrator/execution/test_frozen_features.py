"""Features of a frozen trunk: computed once for all recipes, cuts and grown folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.execution.execute import RecipeResult, execute
from orchestrator.execution.store_executor import _cached_views
from orchestrator.store.stage_store import StageStore
from tests.helpers import ROOT
from tests.helpers.pictures import draw, draw_folder
from trainables.context import Context
from trainables.data import image_files
from trainables.data.views import build_views
from trainables.experiment import Experiment, load_experiment
from trainables.models.backbone import build_trunk, extract_features, from_artifact
from trainables.models.extraction.stored_features import image_names
from trainables.pipeline import HELD_OUT_VIEWS, OPEN_VIEWS

CLASSES, TRAIN, TEST, SIZE = 6, 12, 4, 8
QUICK = (
    f"data.image_size={SIZE}",
    "data.validation_per_class=4",
    "data.stream.unrelated=0",
    "classify.training.epochs=1",
    "update.mode=head",
    "update.training.epochs=1",
    "score.threshold={known_recall: {keep: 0.7}}",
    "pretrain.backbone=fastnet",
)


@pytest.fixture(params=["array", "files"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``set`` and weights ``trunk.safetensors``; the set is an array or files."""
    if request.param == "files":
        monkeypatch.setattr(image_files, "STREAMED_BYTES", 0)
    draw_folder(tmp_path / "set", CLASSES, TRAIN, TEST)
    trunk = build_trunk("fastnet", SIZE, generator=torch.Generator().manual_seed(3))
    save_file(trunk.state_dict(), tmp_path / "trunk.safetensors")
    return tmp_path


def recipe_of(place: Path, *changes: str) -> Experiment:
    sets = [
        f"data.source=folder:{place / 'set'}",
        f"data.root={place}",
        f"pretrain.method.pretrained.checkpoint={place / 'trunk.safetensors'}",
        *QUICK,
        *changes,
    ]
    return load_experiment(None, sets)


def run(place: Path, *changes: str) -> RecipeResult:
    recipe = recipe_of(place, *changes)
    _cached_views.cache_clear()  # a process of its own would not have them
    return execute(recipe, StageStore(str(place / "runs")), Context(seed=recipe.seed))


def needed(place: Path, *changes: str) -> set[bytes]:
    """Return the names of the images in the views of a recipe."""
    views = build_views(recipe_of(place, *changes).data)
    names = (*OPEN_VIEWS[:4], *HELD_OUT_VIEWS)
    chosen = [getattr(views, name) for name in names]
    return {name for view in chosen for name in image_names(view.images, view.indices)}


def stored(place: Path) -> list[bytes]:
    """Return the names of all images whose features were computed, as often as they were."""
    return [
        bytes(row)
        for path in (place / "runs" / "features").glob("*/*")
        for row in load_file(path)["names"].numpy()
    ]


def test_an_image_is_computed_once_whatever_part_it_plays(place: Path) -> None:
    found = run(place)
    assert sorted(stored(place)) == sorted(needed(place))
    cuts = [(), ("data.seed=1", "data.world=test"), ("data.seed=2", "seed=5")]
    for changes in cuts:
        run(place, *changes)
    wanted = set.union(*(needed(place, *changes) for changes in cuts))
    assert sorted(stored(place)) == sorted(wanted)
    assert len(list((place / "runs" / "features").iterdir())) == 1  # one trunk
    known = build_views(recipe_of(place).data).known_train
    direct = extract_features(from_artifact(found.artifacts["backbone"]), known)
    extracted = found.artifacts["features"].known_train
    torch.testing.assert_close(extracted, direct, rtol=1e-5, atol=1e-5)


def test_a_grown_folder_costs_its_new_images(place: Path) -> None:
    run(place)
    before = stored(place)
    for label in range(CLASSES):
        draw(place / "set" / "train" / f"class{label}" / "new.png", label, (SIZE, SIZE), 5000)
    run(place)
    after = stored(place)
    assert len(after) == len(set(after)) > len(before)
    assert set(after) == set(before) | needed(place)


def test_other_weights_share_nothing(place: Path) -> None:
    run(place)
    before = len(stored(place))
    trunk = build_trunk("fastnet", SIZE, generator=torch.Generator().manual_seed(4))
    save_file(trunk.state_dict(), place / "trunk.safetensors")
    run(place)
    assert len(list((place / "runs" / "features").iterdir())) == 2
    assert len(stored(place)) == 2 * before


def test_a_trunk_that_learns_stores_nothing(place: Path) -> None:
    run(place, "classify.trunk=full")
    assert stored(place) == []


SLOW = """
import sys, time
import numpy as np, torch
from orchestrator.store.feature_shards import FeatureShards
from orchestrator.store.filesystem import LocalBackend
from pathlib import Path
from trainables.artifacts import ImageView
from trainables.models.backbone import build_trunk, extract_features
from trainables.models.extraction import stored_features

stored_features.SAVE_ROWS = 4
trunk = build_trunk("fastnet", 8)
images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
seen = []

def compute(batch):
    time.sleep(float(sys.argv[2]))
    seen.append(len(batch))
    return trunk(batch)

extract_features(
    trunk, ImageView(images, np.arange(60), ""), batch_size=2, compute=compute,
    store=FeatureShards(LocalBackend(Path(sys.argv[1]))),
)
print(sum(seen))
"""


def test_an_extraction_goes_on_after_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW, str(tmp_path)]
    slow = subprocess.Popen([*command, "0.2"], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("features/*/*")):
        assert slow.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(slow.pid, signal.SIGKILL)
    slow.wait()
    done = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, check=True)
    computed = int(done.stdout)
    assert 0 < computed <= 56
    names = [
        bytes(row)
        for path in tmp_path.glob("features/*/*")
        for row in load_file(path)["names"].numpy()
    ]
    assert len(names) == len(set(names)) == 60
