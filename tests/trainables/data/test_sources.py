"""Sources: digits, CIFAR layouts, folders of every kind, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import draw, draw_folder
from trainables.data import folders
from trainables.data.decode import to_rgb
from trainables.data.readers.superclasses import CIFAR100, cifar100_superclasses
from trainables.data.source_cache import Source, fit_image, stratified_test
from trainables.data.sources import load_source, load_unrelated
from trainables.errors import ConfigError

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def load(folder: Path, image_size: int | None = None, *, skip: bool = False) -> Source:
    cache = folder.parent / "cache"
    return load_source(f"folder:{folder}", folder, image_size, skip_unreadable=skip, cache=cache)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    bunch, source = load_digits(), load_source("digits", Path("unused"))
    assert source.images.shape == (1797, 8, 8, 3)
    np.testing.assert_array_equal(source.labels, bunch.target)
    gray = source.images[..., 0] / 255 * 16
    assert np.abs(gray - bunch.images).max() < 16 / 255
    assert source.is_test.sum() == sum(
        round(0.3 * int((bunch.target == c).sum())) for c in range(10)
    )


def test_digits_are_enlarged_by_repeating_pixels() -> None:
    small, large = (load_source("digits", Path("unused"), size) for size in (8, 16))
    np.testing.assert_array_equal(large.images[:, ::2, 1::2], small.images)
    assert load_source("digits", Path("unused"), 28).images.shape[1:] == (28, 28, 3)
    assert small.digest != large.digest


def test_noise_has_no_classes_and_no_two_equal_images() -> None:
    source = load_source("noise", Path("unused"), 12)
    assert source.images.shape == (512, 12, 12, 3)
    assert set(source.labels.tolist()) == {-1}
    assert len(np.unique(source.images.reshape(512, -1), axis=0)) == 512


def test_unknown_source_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown source 'cifar11'.*did you mean 'cifar10'"):
        load_source("cifar11", Path("data"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "textures"])
def test_missing_data_set_names_the_places_looked_at(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is not below data.root=.*looked for .*{name}"):
        load_source(name, tmp_path)


def test_train_and_test_folders(tmp_path: Path) -> None:
    source = load(draw_folder(tmp_path / "set", classes=3, train=5, test=2))
    assert source.images.shape == (21, 8, 8, 3)
    assert source.class_names == ("class0", "class1", "class2")
    assert np.bincount(source.labels[source.is_test]).tolist() == [2, 2, 2]
    first = np.asarray(Image.open(tmp_path / "set/train/class0/000.png"))
    np.testing.assert_array_equal(source.images[0], first)


def test_one_folder_is_split_80_to_20_per_class(tmp_path: Path) -> None:
    source = load(draw_folder(tmp_path / "set", classes=2, train=10, test=0))
    assert np.bincount(source.labels[source.is_test]).tolist() == [2, 2]


def test_val_joins_train_and_the_test_is_split_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = draw_folder(tmp_path / "set")
    (folder / "test").rename(folder / "val")
    source = load(folder)
    assert np.bincount(source.labels[source.is_test]).tolist() == [3, 3, 3, 3]
    assert len(source.images) == 64
    assert "val/ joins train/" in caplog.text
    assert "rename it to test/" in caplog.text


def test_tiny_imagenet_layout(tmp_path: Path) -> None:
    for label in ("n01", "n02"):
        for n in range(3):
            draw(tmp_path / f"tiny/train/{label}/images/{label}_{n}.JPEG", n)
        (tmp_path / f"tiny/train/{label}/{label}_boxes.txt").write_text("no image")
    lines = []
    for n in range(4):
        draw(tmp_path / f"tiny/val/images/val_{n}.JPEG", n)
        lines.append(f"val_{n}.JPEG\tn0{1 + n % 2}\t0\t0\t8\t8\n")
    (tmp_path / "tiny/val/val_annotations.txt").write_text("".join(lines))
    (tmp_path / "tiny/test/images").mkdir(parents=True)
    (tmp_path / "tiny/wnids.txt").write_text("n01\nn02\n")
    # The unlabelled test/ has one folder, "images", which is no class.
    source = load(tmp_path / "tiny")
    assert source.class_names == ("n01", "n02")
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert source.is_test.tolist() == [False] * 6 + [True] * 4


def test_mini_imagenet_layout_joins_its_parts(tmp_path: Path) -> None:
    for part, label in (("train", "a"), ("val", "b"), ("test", "c")):
        rows = ["filename,label"]
        for n in range(5):
            draw(tmp_path / f"mini/images/{label}{n}.jpg", n)
            rows.append(f"{label}{n}.jpg,{label}")
        (tmp_path / f"mini/{part}.csv").write_text("\n".join(rows))
    source = load(tmp_path / "mini")
    assert source.class_names == ("a", "b", "c")
    assert np.bincount(source.labels[source.is_test]).tolist() == [1, 1, 1]
    (tmp_path / "mini/images/b3.jpg").unlink()
    refused(tmp_path / "mini", "val.csv", "b3.jpg", "does not exist")


def _write_official_cifar(
    root: Path, pixels: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Write images in the official format, the first half to train, the second to test."""
    from torchvision import datasets
    from torchvision.datasets.utils import calculate_md5

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows, half = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1), len(pixels) // 2
    for name, part in (("data_batch_1", slice(0, half)), ("test_batch", slice(half, None))):
        content = {"data": rows[part], "labels": labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR10}))
    sums = {path.name: calculate_md5(str(path)) for path in folder.iterdir()}
    meta = {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])


def test_cifar_folder_equals_torchvision_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images, stored both ways, give the same source."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20) % 10
    for n, image in enumerate(pixels):
        part = "train" if n < 10 else "test"
        path = tmp_path / f"png/cifar10/{part}/{CIFAR10[labels[n]]}/{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    source = load_source("cifar10", tmp_path / "png")
    assert source.class_names == tuple(CIFAR10)
    np.testing.assert_array_equal(source.images, pixels)
    np.testing.assert_array_equal(source.labels, labels)
    assert source.superclasses is None
    _write_official_cifar(tmp_path / "files", pixels, labels, monkeypatch)
    other = load_source("cifar10", tmp_path / "files")
    assert other.digest == source.digest
    assert other.class_names == source.class_names
    assert load_source("cifar10", tmp_path / "files", 16).images.shape == (20, 16, 16, 3)
    assert load_source("cifar10", tmp_path / "png", 16).images.shape == (20, 16, 16, 3)


def test_damaged_torchvision_files_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": []}))
    with pytest.raises(ConfigError, match=r"torchvision can't read 'cifar10'.*download them again"):
        load_source("cifar10", tmp_path)


def test_svhn_from_torchvision_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat
    from torchvision import datasets
    from torchvision.datasets.utils import calculate_md5

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
    digits = np.array([10, 1, 2, 3, 4, 5])[:, None]  # SVHN writes 10 for the digit 0
    split = dict(datasets.SVHN.split_list)
    for part in ("train", "test"):
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": pixels, "y": digits})
        split[part] = ["", path.name, calculate_md5(str(path))]
    monkeypatch.setattr(datasets.SVHN, "split_list", split)
    source = load_source("svhn", tmp_path)
    assert source.labels.tolist() == [0, 1, 2, 3, 4, 5] * 2
    np.testing.assert_array_equal(source.images[:6], pixels.transpose(3, 0, 1, 2))
    assert source.is_test.tolist() == [False] * 6 + [True] * 6


def test_cifar100_has_20_superclasses_of_5(tmp_path: Path) -> None:
    names = sorted(name for five in CIFAR100.values() for name in five.split())
    assert len(set(names)) == 100
    assert np.bincount(cifar100_superclasses(names)).tolist() == [5] * 20
    # Coarse labels of the first fine classes in the official files: apple .. beaver.
    assert cifar100_superclasses(["apple", "aquarium_fish", "baby", "bear"]) == (4, 1, 14, 8)
    for name in names:
        for part in ("train", "test"):
            draw(tmp_path / f"cifar100/{part}/{name}/0.png", 1, (32, 32))
    source = load_source("cifar100", tmp_path)
    assert source.superclasses == cifar100_superclasses(names)


def test_superclasses_of_a_folder(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=3)
    table = folder / "superclasses.json"
    table.write_text(json.dumps({"class0": "z", "class1": "a", "class2": "z"}))
    assert load(folder).superclasses == (1, 0, 1)
    table.write_text(json.dumps({"class0": "zz", "class1": "a"}))
    refused(folder, "superclasses.json", "class2")


def test_images_of_other_sizes_are_resized_and_cut(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    assert load(folder, 16).images.shape[1:] == (16, 16, 3)
    draw(folder / "train/class0/wide.png", 0, (100, 40))
    assert load(folder).images.shape[1:] == (32, 32, 3)


def test_fit_keeps_the_middle() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    assert (fit_image(pixels, 10) == 255).all()


def _mode(mode: str) -> Image.Image:
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 256 + 9)
    if mode == "I":
        return Image.fromarray(ramp.astype(np.int32) * 256)
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32) / 255)
    if mode == "RGBA":
        return Image.fromarray(np.stack([ramp, ramp, ramp, ramp[::-1]], axis=2), "RGBA")
    return Image.fromarray(ramp).convert(mode)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "I", "F", "RGB", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    ramp = np.arange(64).reshape(8, 8) * 4
    found = np.asarray(to_rgb(_mode(mode)))
    assert found.shape == (8, 8, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - ramp[..., None]).max() <= 1


def test_black_and_white_and_transparent_palette(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    white = Image.new("1", (8, 8), 1)
    white.save(folder / "train/class0/a_white.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(folder / "train/class0/b_red.png", transparency=bytes([0, 255]))
    source = load(folder)
    assert (source.images[12] == 255).all()
    assert (source.images[13] == [255, 0, 0]).all()


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[0] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        assert (np.asarray(to_rgb(picture))[:, -1] == 255).all()


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "folder not found", "nowhere")
    (tmp_path / "void").mkdir()
    refused(tmp_path / "void", "no class folders", "void")
    folder = draw_folder(tmp_path / "set")
    (folder / "train/class9").mkdir()
    refused(folder, "class9 is empty")


def test_one_class_is_refused(tmp_path: Path) -> None:
    refused(draw_folder(tmp_path / "set", classes=1), "1 class (class0)", "at least 2")


def test_class_of_one_image_trains_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = draw_folder(tmp_path / "set", test=0)
    draw(folder / "lonely/0.png", 9)
    source = load(folder)
    lonely = source.labels == source.class_names.index("lonely")
    assert source.is_test[lonely].tolist() == [False]
    assert "class 'lonely'" in caplog.text
    assert "trained on and not judged" in caplog.text


def test_class_on_one_side_only_is_refused(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set")
    draw(folder / "test/stray/0.png")
    refused(folder, "'stray'", "test part only")
    draw(folder / "train/stray/0.png")
    draw(folder / "train/other/0.png")
    refused(folder, "'other'", "train part only")


def _spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("hello")
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes(20) + content[middle + 20 :])


@pytest.mark.parametrize(
    ("how", "suffix"),  # a garbled JPEG decodes to a wrong picture: nothing can tell
    [(how, suffix) for how in ("empty", "truncated", "text") for suffix in ("png", "jpg")]
    + [("garbled", "png")],
)
def test_unreadable_file_is_named_and_can_be_skipped(
    how: str, suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = draw_folder(tmp_path / "set")
    path = draw(folder / f"train/class1/bad.{suffix}", 1, (32, 32))
    _spoil(path, how)
    refused(folder, f"bad.{suffix}", "can't be read as an image", "data.skip_unreadable=true")
    for again in (False, True):  # decoded, then from the cache
        caplog.clear()
        source = load(folder, skip=True)
        assert len(source.images) == 64
        assert source.skipped == (f"train/class1/bad.{suffix}",)
        assert ("skipped 1 unreadable files" in caplog.text) is not again, "a process says it once"


def test_class_with_no_readable_image_is_refused_even_when_skipping(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set")
    for path in (folder / "test/class2").iterdir():
        path.write_text("no")
    with pytest.raises(ConfigError, match=r"'class2'.*train part only"):
        load(folder, skip=True)


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set")
    (folder / "train/class0/.DS_Store").write_text("x")
    (folder / "train/.thumbnails").mkdir()
    assert len(load(folder).images) == 64


def test_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_folder(tmp_path / "set")
    first = load(folder)
    monkeypatch.setattr(folders, "open_images", None)  # decoding again would fail
    second = load(folder)
    assert isinstance(second.images, np.memmap)
    assert first.digest == second.digest
    np.testing.assert_array_equal(first.images, second.images)


def test_changed_file_is_decoded_again_and_touched_file_keeps_the_digest(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set")
    first = load(folder)
    path = folder / "train/class0/000.png"
    os.utime(path, (time.time() + 9, time.time() + 9))
    assert load(folder).digest == first.digest
    draw(path, 7, noise=5)
    changed = load(folder)
    assert changed.digest != first.digest
    np.testing.assert_array_equal(changed.images[0], np.asarray(Image.open(path)))


def test_processes_that_load_at_once_agree(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", train=100)
    code = (
        "import sys; from pathlib import Path; from trainables.data.sources import load_source;"
        "root = Path(sys.argv[1]); print(load_source('folder:' + sys.argv[1], root,"
        " cache=root.parent / 'cache').digest)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    digests = {process.communicate()[0] for process in started}
    assert {process.returncode for process in started} == {0}
    assert digests == {load(folder).digest + "\n"}
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.name != ".keys"]
    assert len(left) == 1, "unfinished drafts stay behind"


def test_loose_images_at_any_depth_are_unrelated(tmp_path: Path) -> None:
    draw(tmp_path / "loose/a.png", size=(20, 10))
    draw(tmp_path / "loose/deep/er/b.png")
    source = load_unrelated(f"folder:{tmp_path / 'loose'}", tmp_path, 16)
    assert source.images.shape == (2, 16, 16, 3)
    assert source.labels.tolist() == [-1, -1]
    (tmp_path / "void").mkdir()
    with pytest.raises(ConfigError, match="holds no images"):
        load_unrelated(f"folder:{tmp_path / 'void'}", tmp_path, 16)


def test_stratified_test_leaves_an_image_on_each_side() -> None:
    labels = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    for fraction in (0.01, 0.5, 0.99):
        is_test = stratified_test(labels, fraction)
        for label in range(3):
            assert set(is_test[labels == label].tolist()) == {True, False}
