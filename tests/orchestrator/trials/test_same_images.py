"""A sweep whose images changed since its first trials does not go on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray.exceptions import RayTaskError

from orchestrator.execution.infrastructure import InfrastructureError, infrastructure_fault
from orchestrator.execution.store_executor import _cached_views, check_views
from orchestrator.records import SweepRecord, TrialRecord
from orchestrator.trials.data_look import check_same_images, describe_images
from trainables.data.data_settings import Data
from trainables.errors import ConfigError

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


def add(folder: Path, name: str, numbers: range) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng([len(name), number]).integers(0, 256, (16, 16, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:03}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for part, numbers in (("train", range(20)), ("test", range(100, 106))):
        for name in CLASSES:
            add(tmp_path / "photos" / part, name, numbers)
    return tmp_path / "photos"


def data_of(photos: Path) -> Data:
    return Data(
        source=f"folder:{photos}", root=str(photos.parent / "cache"), image_size=16,
        novel_classes=2, validation_novel_classes=1, validation_per_class=4,
    )  # fmt: skip


def started(photos: Path) -> SweepRecord:
    """Return the record of a sweep of one trial; what this process remembers is forgotten."""
    trial = TrialRecord(trial_id="t0", number=0, state="COMPLETE", params={})
    record = SweepRecord(
        name="grow", space="full", started="", experiment={}, objectives=[], environment={},
        data=describe_images(data_of(photos)), trials=[trial],
    )  # fmt: skip
    _cached_views.cache_clear()
    return record


def test_the_same_images_go_on(photos: Path) -> None:
    check_same_images(started(photos), data_of(photos))


def test_a_sweep_without_trials_may_have_other_images(photos: Path) -> None:
    record = started(photos)
    record.trials = []
    add(photos / "train", "cat", range(20, 30))
    check_same_images(record, data_of(photos))


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "test image", "class"])
def test_other_images_are_refused_in_one_line(photos: Path, change: str) -> None:
    record = started(photos)
    if change == "added":
        for name in CLASSES:
            add(photos / "train", name, range(20, 30))
    elif change == "removed":
        (photos / "train" / "cat" / "003.png").unlink()
    elif change == "replaced":
        add(photos / "train", "dolphin", range(1))
        (photos / "train" / "dolphin" / "000.png").replace(photos / "train" / "cat" / "000.png")
        (photos / "train" / "dolphin").rmdir()
    elif change == "test image":
        add(photos / "test", "dog", range(106, 109))
    else:
        add(photos / "train", "gnu", range(20))
        add(photos / "test", "gnu", range(100, 106))
    with pytest.raises(ConfigError, match=r"'grow': the images of folder:.* changed") as error:
        check_same_images(record, data_of(photos))
    assert "\n" not in str(error.value)
    assert "give a new --name" in str(error.value)
    if change == "added":
        assert "->" in str(error.value)


def test_images_that_change_while_the_sweep_runs_end_it(photos: Path) -> None:
    digest = started(photos).data["views_digest"]
    check_views(data_of(photos), digest)
    _cached_views.cache_clear()  # a worker that starts later
    for name in CLASSES:
        add(photos / "train", name, range(20, 30))
    with pytest.raises(InfrastructureError, match="changed while the sweep ran") as error:
        check_views(data_of(photos), digest)
    assert infrastructure_fault(RayTaskError("run", "its page", error.value)) == str(error.value)


def test_other_images_of_the_stream_are_refused(photos: Path, tmp_path: Path) -> None:
    add(tmp_path, "clutter", range(40))
    _cached_views.cache_clear()
    stream = {"unrelated": 10, "unrelated_source": f"folder:{tmp_path / 'clutter'}"}
    data = Data.model_validate({**data_of(photos).model_dump(), "stream": stream})
    record = started(photos).model_copy(update={"data": describe_images(data)})
    _cached_views.cache_clear()
    add(tmp_path, "clutter", range(40, 80))
    with pytest.raises(ConfigError, match="changed since its first trials"):
        check_same_images(record, data)
