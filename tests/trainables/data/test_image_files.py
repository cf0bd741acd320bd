"""Sources that stay files: the same images and figures as a decoded array, in bounded memory."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.pictures import draw, draw_folder
from trainables.artifacts import ImageView, LabelledView
from trainables.context import Context
from trainables.data import image_files, stored_sources
from trainables.data.data_settings import USUAL_FITTING, Fitting
from trainables.data.decode import Head, decode_all
from trainables.data.image_files import ImageFiles, Joined, join, take
from trainables.data.loader import Loader
from trainables.data.source_cache import Source
from trainables.data.sources import load_source, load_unrelated
from trainables.data.stored_sources import Opened
from trainables.data.views import Views, build_views
from trainables.errors import DataError
from trainables.experiment import Data, load_experiment
from trainables.methods.augmentations.crop_flip import CropFlip
from trainables.pipeline import run
from trainables.settings import assign, build
from trainables.weights.provenance import image_digests

SIZE = 16


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let every source of files stay files."""
    monkeypatch.setattr(image_files, "STREAMED_BYTES", 0)
    return monkeypatch


def load(folder: Path, *, cache: str = "cache", size: int = SIZE, skip: bool = False) -> Source:
    place = folder.parent / cache
    return load_source(f"folder:{folder}", folder, size, skip_unreadable=skip, cache=place)


def both(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Source, Source]:
    """Return a folder as an array and as files."""
    array = load(folder, cache="array", **options)
    monkeypatch.setattr(image_files, "STREAMED_BYTES", 0)
    files = load(folder, cache="files", **options)
    assert isinstance(array.images, np.ndarray)
    assert isinstance(files.images, ImageFiles)
    return array, files


def open_images(paths: list[str], size: int, fitting: Fitting = USUAL_FITTING) -> Opened:
    return stored_sources.open_images(paths, size, fitting, check=False, cache=Path("unused"))


def odd_files(folder: Path) -> None:
    """Write images of every kind that people have into two classes."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(folder / "a" / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(pixels[..., 0]).save(folder / "a" / "gray.png")
    Image.fromarray(pixels).convert("CMYK").save(folder / "a" / "cmyk.jpg")
    Image.fromarray(pixels).quantize(16).save(folder / "b" / "palette.png")
    deep = draws.integers(0, 65536, (30, 50), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "b" / "deep.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(folder / "b" / "alpha.png")


def test_images_are_those_of_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd_files(tmp_path / "set")
    array, files = both(tmp_path / "set", monkeypatch)
    assert files.images.shape == array.images.shape
    np.testing.assert_array_equal(files.images[:], array.images)
    order = np.array([4, 0, 2])
    np.testing.assert_array_equal(files.images[order], array.images[order])
    np.testing.assert_array_equal(files.images[np.int64(3)], array.images[3])
    assert files.images[np.empty(0, dtype=np.int64)].shape == (0, SIZE, SIZE, 3)
    assert files.images[2:4].dtype == np.uint8
    np.testing.assert_array_equal(files.labels, array.labels)
    np.testing.assert_array_equal(files.is_test, array.is_test)
    assert files.class_names == array.class_names
    assert files.sizes == array.sizes


def test_a_source_of_more_than_two_gigabytes_stays_files(tmp_path: Path) -> None:
    paths = [str(draw(tmp_path / f"{n}.png", n)) for n in range(3)]
    wide = 14_907  # 3 * 14,907 ** 2 * 3 bytes are just below 2 * 10 ** 9
    opened = open_images([*paths, *paths[:1]], wide, Fitting())
    assert isinstance(opened.images, ImageFiles)
    assert opened.images.shape == (4, wide, wide, 3)
    small = open_images(paths, SIZE, Fitting())
    assert isinstance(small.images, np.ndarray)


def test_fitting_is_that_of_the_recipe(tmp_path: Path, streamed: pytest.MonkeyPatch) -> None:
    paths = [str(draw(tmp_path / f"{n}.png", n, (40, 30))) for n in range(3)]
    fitting = Fitting("bicubic", 0.875)
    files = open_images(paths, SIZE, fitting).images
    streamed.undo()
    array = open_images(paths, SIZE, fitting).images
    plain = open_images(paths, SIZE, Fitting()).images
    np.testing.assert_array_equal(files[:], array)
    assert (np.asarray(array) != np.asarray(plain)).any()


def test_the_list_of_files_moves_with_its_folder(
    tmp_path: Path, streamed: pytest.MonkeyPatch
) -> None:
    draw_folder(tmp_path / "one" / "set", classes=2, train=4, test=2)
    first = load(tmp_path / "one" / "set")
    before = first.images[:]
    shutil.copytree(tmp_path / "one" / "set", tmp_path / "two" / "set")
    shutil.copytree(tmp_path / "one" / "cache", tmp_path / "two" / "cache")
    shutil.rmtree(tmp_path / "one")
    streamed.setattr(stored_sources, "read_heads", None)  # the list is found
    second = load(tmp_path / "two" / "set")
    np.testing.assert_array_equal(second.images[:], before)
    assert second.digest == first.digest


def test_training_copies_of_test_images_are_found_by_file(
    tmp_path: Path, streamed: pytest.MonkeyPatch
) -> None:
    folder = draw_folder(tmp_path / "set", classes=2, train=4, test=2)
    shutil.copy(folder / "test" / "class0" / "000.png", folder / "train" / "class0" / "copy.png")
    source = load(folder)
    assert source.copies == ("train/class0/copy.png",)
    assert len(source.images) == 2 * (4 + 2)


def test_one_changed_byte_is_another_source(tmp_path: Path, streamed: pytest.MonkeyPatch) -> None:
    folder = draw_folder(tmp_path / "set", classes=2, train=4, test=2)
    first = load(folder)
    names = first.images.names(np.arange(3))  # type: ignore[union-attr]
    path = Path(first.images.paths[1])  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes() + b"\0")
    second = load(folder)
    again = second.images.names(np.arange(3))  # type: ignore[union-attr]
    assert second.digest != first.digest
    assert [a == b for a, b in zip(names, again, strict=True)] == [True, False, True]


def damage(folder: Path, *names: str) -> list[Path]:
    """Cut files in the middle: their heads are whole."""
    paths = [folder / name for name in names]
    for path in paths:
        draw(path, 1, (300, 300), 7)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    return paths


def test_damage_behind_the_head_shows_when_the_file_is_decoded(
    tmp_path: Path, streamed: pytest.MonkeyPatch
) -> None:
    folder = draw_folder(tmp_path / "set", classes=2, train=4, test=0)
    damage(folder, "class0/bad.png", "class1/worse.png")
    source = load(folder)
    with pytest.raises(DataError) as found:
        source.images[:]
    lines = [fault.text for fault in found.value.faults]
    assert [("bad.png" in line, "worse.png" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]
    assert "set data.skip_unreadable=true" in lines[0]
    skipping = load(folder, skip=True)
    assert skipping.skipped == ("class0/bad.png", "class1/worse.png")
    assert skipping.images[:].shape == (8, SIZE, SIZE, 3)


def test_joined_images_are_in_order_and_named_by_content(
    tmp_path: Path, streamed: pytest.MonkeyPatch
) -> None:
    paths = [str(draw(tmp_path / f"{n}.png", n, (SIZE, SIZE))) for n in range(5)]
    files = open_images(paths, SIZE, Fitting()).images
    array = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    joined = join(files, array)
    whole = np.concatenate([files[:], array])
    assert isinstance(joined, Joined)
    np.testing.assert_array_equal(joined[:], whole)
    order = np.array([8, 0, 5, 2, 2])
    taken = take(joined, order)
    np.testing.assert_array_equal(taken[:], whole[order])
    np.testing.assert_array_equal(taken[1], whole[0])
    again = join(taken, take(files, np.array([3])))
    np.testing.assert_array_equal(again[np.arange(6)], whole[[*order, 3]])
    names = again.names(np.arange(6))  # type: ignore[union-attr]
    assert len(set(names)) == 5
    assert names[3] == names[4]
    assert names[5] == files.names(np.array([3]))[0]  # type: ignore[union-attr]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again))[:], whole[[*order, 3]])


@pytest.mark.parametrize("views", [1, 2])
def test_batches_are_those_of_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    array, files = both(draw_folder(tmp_path / "set", classes=2, train=7, test=2), monkeypatch)
    epochs = []
    for source in (array, files):
        indices = np.array([5, 1, 9, 3, 7, 0, 2], dtype=np.int64)
        view = LabelledView(source.images, indices, source.labels[indices], 2, "d")
        loader = Loader(view, batch_size=3, augmentation=CropFlip(), views=views)
        draws = torch.Generator().manual_seed(1)
        epochs.append(list(loader.epoch(positions=torch.arange(7).flip(0), generator=draws)))
        assert len(loader) == 7
    for one, other in zip(*epochs, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.positions, other.positions)
        assert one.images.stride() == other.images.stride()
    labels = image_digests(ImageView(array.images, np.arange(6), ""))
    assert torch.equal(labels, image_digests(ImageView(files.images, np.arange(6), "")))


def test_an_augmentation_that_changes_its_input_spoils_no_other_view() -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (6, 8, 8, 3), dtype=np.uint8)
    loader = Loader(ImageView(pixels, np.arange(6), "d"), batch_size=6, views=2)
    loader.augmentation = lambda images, generator: images.add_(1)  # type: ignore[assignment]
    (batch,) = loader.epoch(positions=torch.arange(6), generator=torch.Generator())
    wanted = torch.from_numpy(pixels + 1).permute(0, 3, 1, 2)
    assert torch.equal(batch.images, torch.cat([wanted, wanted]))
    (again,) = loader.epoch(positions=torch.arange(6), generator=torch.Generator())
    assert torch.equal(again.images, batch.images)


def views_of(folder: Path, cache: str) -> Views:
    data = build(
        Data,
        {
            "source": f"folder:{folder}",
            "image_size": SIZE,
            "novel_classes": 2,
            "validation_per_class": 2,
            "stream": {"unrelated": 3, "unrelated_source": "noise"},
        },
    )
    return build_views(data, cache=folder.parent / cache)


def test_a_recipe_has_the_figures_of_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw_folder(tmp_path / "set", classes=6, train=12, test=4)
    recipe = assign(
        load_experiment("experiments/digits.yaml"),
        {
            "classify.training.epochs": 2,
            "classify.training.batch_size": 16,
            "update.mode": "full",
            "update.training.epochs": 1,
            "update.rounds": 1,
        },
    )
    array = views_of(folder, "array")
    monkeypatch.setattr(image_files, "STREAMED_BYTES", 0)
    files = views_of(folder, "files")
    for name, view in files._asdict().items():
        if hasattr(view, "images"):
            assert not isinstance(view.images, np.ndarray), name
            rows = getattr(array, name)
            np.testing.assert_array_equal(view.images[view.indices], rows.images[rows.indices])
    assert files.index_lists == array.index_lists
    wanted = run(recipe, Context(), views=array)["evaluation"].metrics
    found = run(recipe, Context(), views=files)["evaluation"].metrics
    assert found == wanted


def test_loose_images_stay_files_too(tmp_path: Path, streamed: pytest.MonkeyPatch) -> None:
    draw_folder(tmp_path / "set", classes=2, train=3, test=0)
    loose = load_unrelated(f"folder:{tmp_path / 'set'}", tmp_path, SIZE, cache=tmp_path / "cache")
    assert isinstance(loose.images, ImageFiles)
    streamed.undo()
    array = load_unrelated(f"folder:{tmp_path / 'set'}", tmp_path, SIZE, cache=tmp_path / "other")
    np.testing.assert_array_equal(loose.images[:], array.images)


def test_nothing_is_decoded_for_views(tmp_path: Path, streamed: pytest.MonkeyPatch) -> None:
    folder = draw_folder(tmp_path / "set", classes=6, train=12, test=4)
    streamed.setattr(ImageFiles, "__getitem__", None)
    assert len(views_of(folder, "cache").pool.indices) > 3
    note = next((tmp_path / "cache").glob("*/files.json"))
    assert len(json.loads(note.read_text())["names"]) == 96
    assert os.listdir(note.parent).count("images.npy") == 0


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are decoded into arrays."""
    names: list[str] = []

    def noted(files: list[str], *arguments: Any) -> list[Head]:
        names.extend(os.path.basename(path) for path in files)
        return decode_all(files, *arguments)

    monkeypatch.setattr(stored_sources, "decode_all", noted)
    return names


def test_a_grown_array_decodes_its_new_files_alone(tmp_path: Path, decoded: list[str]) -> None:
    folder = draw_folder(tmp_path / "set", classes=2, train=4, test=2, size=(40, 30))
    first = load(folder)
    assert len(decoded) == 12
    decoded.clear()
    draw(folder / "train" / "class0" / "new.png", 0, (40, 30), 77)
    damage(folder, "train/class1/bad.png")
    os.remove(folder / "train" / "class1" / "000.png")
    grown = load(folder, skip=True)
    assert sorted(decoded) == ["bad.png", "new.png"]
    assert grown.skipped == ("train/class1/bad.png",)
    assert grown.sizes == ((40, 30), (40, 30))
    alone = load(folder, skip=True, cache="another")
    np.testing.assert_array_equal(grown.images, alone.images)
    assert grown.digest == alone.digest != first.digest


def test_renamed_files_and_loose_images_are_not_decoded_again(
    tmp_path: Path, decoded: list[str]
) -> None:
    folder = draw_folder(tmp_path / "set", classes=2, train=4, test=0, size=(40, 30))
    first = load(folder)
    decoded.clear()
    (folder / "class0").rename(folder / "other")
    renamed = load(folder)
    loose = load_unrelated(f"folder:{folder}", tmp_path, SIZE, cache=tmp_path / "cache")
    assert decoded == []
    assert renamed.class_names == ("class1", "other")
    np.testing.assert_array_equal(renamed.images[:4], first.images[4:])
    np.testing.assert_array_equal(loose.images, renamed.images)


def test_another_way_of_decoding_is_another_array(tmp_path: Path, decoded: list[str]) -> None:
    folder = draw_folder(tmp_path / "set", classes=2, train=4, test=0, size=(40, 30))
    load(folder)
    decoded.clear()
    load(folder, size=SIZE + 1)
    assert len(decoded) == 8
    load_source(
        f"folder:{folder}", folder, SIZE, cache=tmp_path / "cache", fitting=Fitting("bicubic")
    )
    assert len(decoded) == 16
    for note in (tmp_path / "cache").glob("*/digests.npy"):
        note.write_bytes(b"damaged")
    draw(folder / "class0" / "new.png", 0, (40, 30), 77)
    assert len(load(folder).images) == 9
    assert len(decoded) == 16 + 9
