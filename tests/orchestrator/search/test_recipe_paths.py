"""What files and folders hold counts in a recipe, not where they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.search.recipe_paths import content_of_paths, recipe_digest, with_content
from tests.helpers.pictures import draw, draw_folder
from trainables.data import source_cache
from trainables.data.folders import folder_content, read_folder
from trainables.data.source_names import with_last_names
from trainables.data.views import build_views
from trainables.experiment import Experiment, load_experiment

QUICK = ("data.image_size=8", "data.validation_per_class=4", "data.stream.unrelated=0")


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """A folder of classes; the test may run in the folder ``here/sub`` beside it."""
    (tmp_path / "here/sub").mkdir(parents=True)
    return draw_folder(tmp_path / "here/flowers", classes=6)


def digest_of(source: object, *sets: str) -> str:
    return recipe_digest(load_experiment(None, [f"data.source=folder:{source}", *QUICK, *sets]))


def test_one_folder_is_one_recipe_from_wherever_it_is_named(
    flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers.parent)
    found = {digest_of("flowers"), digest_of("./flowers"), digest_of(flowers)}
    monkeypatch.chdir("sub")
    found |= {digest_of("../flowers"), digest_of(shutil.copytree(flowers, "copy"))}
    (flowers.parent / "link").symlink_to(flowers)
    found.add(digest_of("../link"))
    assert len(found) == 1
    assert digest_of("../flowers", "seed=1") not in found
    assert digest_of("../flowers", "data.root=../data") in found  # nothing is read below it


def change_a_pixel(flowers: Path) -> None:
    draw(flowers / "train/class0/000.png", 5, noise=77)


def add_an_image(flowers: Path) -> None:
    draw(flowers / "train/class0/new.png", 0, noise=77)


def rename_a_class(flowers: Path) -> None:
    for part in ("train", "test"):
        (flowers / part / "class0").rename(flowers / part / "other")


def move_an_image_to_the_test(flowers: Path) -> None:
    (flowers / "train/class0/000.png").rename(flowers / "test/class0/moved.png")


def group_the_classes(flowers: Path) -> None:
    pairs = ", ".join(f'"class{n}": "group{n % 2}"' for n in range(6))
    (flowers / "superclasses.json").write_text(f"{{{pairs}}}")


@pytest.mark.parametrize(
    "change",
    [
        change_a_pixel,
        add_an_image,
        rename_a_class,
        move_an_image_to_the_test,
        group_the_classes,
    ],
)
def test_other_images_are_another_recipe(flowers: Path, change: object) -> None:
    before = digest_of(flowers)
    change(flowers)  # type: ignore[operator]
    assert digest_of(flowers) != before


def test_a_digest_survives_files_with_equal_names_sizes_and_times(flowers: Path) -> None:
    file = flowers / "train/class0/000.png"
    before, content, times = digest_of(flowers), file.read_bytes(), file.stat()
    file.write_bytes(content[:-20] + bytes(20))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest_of(flowers) != before
    file.write_bytes(content)
    assert digest_of(flowers) == before


def test_a_folder_that_was_read_is_not_read_again_for_its_digest(
    flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_cache, "SETTLED_SECONDS", -1.0)
    cache = tmp_path / "cache"
    read_folder(flowers, 8, skip_unreadable=False, cache=cache)
    expected = folder_content(flowers, cache=tmp_path / "other")

    def read(path: str) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(source_cache, "_file_digest", read)
    assert folder_content(flowers, cache=cache) == expected
    read_folder(flowers, 8, skip_unreadable=False, cache=cache)  # neither for its images


def test_files_of_checkpoints_count_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(path: object) -> str:
        method = f"pretrain.method={{pretrained: {{checkpoint: {path}}}}}"
        return recipe_digest(load_experiment(None, [method]))

    (tmp_path / "sub").mkdir()
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_file({"w": torch.full((2,), value)}, tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path / "sub")
    same = {digest("../a.safetensors"), digest(tmp_path / "a.safetensors")}
    assert len(same | {digest("../b.safetensors")}) == 1
    assert not same & {digest("../c.safetensors"), digest("../none.safetensors")}


def test_files_below_data_root_count_by_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_folder(tmp_path / name / "cifar10", classes=3)
    draw_folder(tmp_path / "three/cifar10", classes=4)

    def digest(root: str) -> str:
        sets = ["data.source=cifar10", f"data.root={tmp_path / root}"]
        return recipe_digest(load_experiment(None, sets))

    assert digest("one") == digest("two")
    assert digest("one") != digest("three")


def test_loose_unrelated_images_count_by_content(flowers: Path, tmp_path: Path) -> None:
    for name, color in (("street", 3), ("copy", 3), ("other", 4)):
        draw(tmp_path / name / "a.png", color)

    def digest(name: str) -> str:
        more = (f"data.stream.unrelated_source=folder:{tmp_path / name}", "data.stream.unrelated=1")
        return digest_of(flowers, *more)

    assert digest("street") == digest("copy") != digest("other")


def test_a_recipe_without_paths_keeps_its_digest() -> None:
    recipe = load_experiment(None, ["seed=3", "data.root=elsewhere"])
    assert recipe_digest(recipe) == load_experiment(None, ["seed=3"]).digest()
    assert recipe_digest(Experiment()) == Experiment().digest()


def test_a_path_that_leads_nowhere_is_absent(tmp_path: Path) -> None:
    recipe = load_experiment(None, [f"data.source=folder:{tmp_path / 'none'}"])
    assert content_of_paths(recipe) == {"data.source": "absent"}
    assert with_content(recipe, content_of_paths(recipe)).data.source == "folder:absent"


def test_the_protocol_is_the_same_and_names_no_place(
    flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers.parent / "sub")
    words = (str(flowers), "../flowers")
    summaries = [
        build_views(load_experiment(None, [f"data.source=folder:{word}", *QUICK]).data).summary
        for word in words
    ]
    assert summaries[0] == summaries[1]
    assert summaries[0]["source"] == "folder:flowers"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("folder:flowers", "folder:flowers"),
        ("folder:../flowers/", "folder:flowers"),
        ("folder:~/me/flowers", "folder:flowers"),
        ("folder:a/b/flowers", "folder:flowers"),
        ("/data/sets", "sets"),
        ("~/data", "data"),
        ("data/sets", "data/sets"),
        ("digits", "digits"),
        ("/", "/"),
        (3, 3),
        (None, None),
        ([{"checkpoint": "/x/y.safetensors"}], [{"checkpoint": "y.safetensors"}]),
    ],
)
def test_paths_are_shown_by_their_last_names(words: object, shown: object) -> None:
    assert with_last_names(words) == shown
