"""Where computing processes work: relative paths mean what they mean to the driver."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from orchestrator.execution.devices import work_in
from tests.helpers.pictures import draw_folder
from trainables.data.views import build_views
from trainables.experiment import Experiment
from trainables.settings import assign

SETS = {
    "data.source": "folder:flowers",
    "data.root": "data",
    "data.image_size": 8,
    "data.validation_per_class": 2,
    "data.novel_classes": 2,
    "data.stream.unrelated": 0,
}


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """A driver's folder with four classes of images."""
    driver = tmp_path / "driver"
    draw_folder(driver / "flowers", classes=6, test=0)
    return driver


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Working folders of three processes; the test's own comes back."""
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / f"trial-{number}" for number in range(3)]
    for folder in folders:
        folder.mkdir()
    return folders


def test_images_are_decoded_once_for_all_processes(flowers: Path, elsewhere: list[Path]) -> None:
    decoded = []
    for folder in elsewhere:
        os.chdir(folder)
        work_in(str(flowers))
        build_views(assign(Experiment(), SETS).data)
        found = sorted((flowers / "data" / ".cache").glob("*/images.npy"))
        decoded.append([(path, path.stat().st_ino) for path in found])
    assert len(decoded[0]) == 1
    assert decoded[1] == decoded[2] == decoded[0]
    assert [list(folder.iterdir()) for folder in elsewhere] == [[], [], []]


def test_a_host_without_the_drivers_folder_has_one_for_all_processes(
    elsewhere: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places = []
    for folder in elsewhere:
        os.chdir(folder)
        work_in("/not/on/this/host")
        places.append(Path.cwd())
    assert len(set(places)) == 1
    assert places[0].parent.stat().st_mode & 0o777 == 0o700
    work_in("/nor/this/one")
    assert Path.cwd() not in places
    here = Path.cwd()
    work_in("")
    assert Path.cwd() == here


def test_a_folder_that_another_prepared_is_not_used(
    elsewhere: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"longtail-work-{os.getuid()}").symlink_to(elsewhere[0])
    with pytest.raises(PermissionError, match="belongs to another user"):
        work_in("/not/on/this/host")
