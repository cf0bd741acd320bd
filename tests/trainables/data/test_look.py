"""The look at the data: what is there, who would be new, and all faults at once."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from tests.helpers.pictures import draw, draw_folder
from trainables.data import folders
from trainables.data.data_settings import Data
from trainables.data.faults import MOST_LINES, DataError, Fault, fault_lines
from trainables.data.look import Look, look
from trainables.data.views import build_views
from trainables.errors import ConfigError, readable
from trainables.settings import build


def settings(folder: Path, **changes: object) -> Data:
    plain = {
        "source": f"folder:{folder}",
        "root": str(folder.parent),
        "validation_per_class": 4,
        "stream": {"unrelated": 0},
    }
    return build(Data, {**plain, **changes})


def texts(found: Look, *, fatal: bool) -> list[str]:
    return [fault.text for fault in found.faults if fault.fatal == fatal]


def unequal(root: Path) -> Path:
    """Write six classes of 20 to 70 training images, and five test images each."""
    for label in range(6):
        for n in range(20 + 10 * label):
            draw(root / f"train/class{label}/{n:03}.png", label, noise=n)
        for n in range(5):
            draw(root / f"test/class{label}/{n:03}.png", label, noise=500 + n)
    return root


@pytest.mark.parametrize("decode", [False, True])
def test_look_tells_what_the_protocol_makes_of_a_folder(decode: bool, tmp_path: Path) -> None:
    data = settings(unequal(tmp_path / "mine"))
    found = look(data, decode=decode)
    views = build_views(data.model_copy(update={"world": "test"}))
    assert found.faults == ()
    assert [(row.name, row.train, row.test) for row in found.classes] == [
        (f"class{label}", 20 + 10 * label, 5) for label in range(6)
    ]
    plays = {
        role: [row.name for row in found.classes if row.plays == role]
        for role in ("known", "new in validation", "new in test")
    }
    assert plays["known"] == views.summary["known_class_names"]
    assert plays["new in test"] == views.summary["novel_class_names"]
    assert len(plays["new in validation"]) == 1
    counts = [row.trained for row in found.classes if row.plays == "known"]
    assert counts == views.summary["class_counts"]
    assert found.imbalance == max(counts) / min(counts)
    assert found.sizes == ((8, 8), (8, 8))
    assert "6 classes (3 known, 1 new in validation, 2 new in test)" in found.summary()
    assert "270 images in train and 30 in test" in found.summary()


def test_decoded_look_fills_the_cache_that_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = settings(unequal(tmp_path / "mine"))
    first = look(data, decode=True)
    monkeypatch.setattr(folders, "open_images", None)  # decoding again would fail
    assert build_views(data).summary["sizes"]["known_train"] > 0
    assert look(data, decode=True) == first


def test_heads_alone_write_no_cache(tmp_path: Path) -> None:
    look(settings(unequal(tmp_path / "mine")))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("decode", [False, True])
def test_all_faults_are_told_at_once(decode: bool, tmp_path: Path) -> None:
    folder = unequal(tmp_path / "mine")
    (folder / "train/class1/empty.png").write_bytes(b"")
    (folder / "train/class1/notes.txt").write_text("no image")
    (folder / "train/class2/gone.png").symlink_to("/nowhere/x.png")
    (folder / "train/void").mkdir()
    draw(folder / "train/stray/0.png", 9)
    shutil.rmtree(folder / "test/class5")
    draw(folder / "beside.png")
    (folder / "Thumbs.db").write_text("x")
    found = look(settings(folder, validation_per_class=25), decode=decode)
    fatal = "\n".join(texts(found, fatal=True))
    for words in (
        "empty.png can't be read as an image (the file is empty)",
        "notes.txt can't be read as an image (the file is not an image of a known format)",
        "gone.png is a link to /nowhere/x.png",
        "train/void is empty",
        "class 'stray' in",
        "class 'class5' in",
        "data.validation_per_class: class 'class0' has 20 training images, so at most 19",
    ):
        assert words in fatal, words
    others = "\n".join(texts(found, fatal=False))
    assert "beside.png; put them into a class folder" in others
    assert "Thumbs.db" in others
    assert all("\n" not in line for line in found.lines())
    with pytest.raises(ConfigError, match=r"^[^\n]* \(and \d more\)$"):
        found.refuse()


def test_damage_behind_the_head_shows_in_decoding(tmp_path: Path) -> None:
    folder = unequal(tmp_path / "mine")
    path = draw(folder / "train/class1/cut.png", 1, (64, 64), 7)
    path.write_bytes(path.read_bytes()[:2000])
    data = settings(folder, image_size=8)
    assert look(data).faults == ()
    (text,) = texts(look(data, decode=True), fatal=True)
    assert "cut.png can't be read as an image" in text
    skipping = look(settings(folder, image_size=8, skip_unreadable=True), decode=True)
    assert texts(skipping, fatal=True) == []
    assert "skipped 1 unreadable files: train/class1/cut.png" in skipping.lines()[0]


def test_copies_of_test_images_are_told(tmp_path: Path) -> None:
    folder = unequal(tmp_path / "mine")
    shutil.copy(folder / "test/class0/000.png", folder / "train/class0/copy.png")
    found = look(settings(folder), decode=True)
    assert found.classes[0].train == 20
    (text,) = texts(found, fatal=False)
    assert "copies of test images left out (1): train/class0/copy.png" in text


def test_every_class_that_is_too_small_is_told(tmp_path: Path) -> None:
    found = look(settings(unequal(tmp_path / "mine"), validation_per_class=60))
    known = [row.name for row in found.classes if row.plays == "known"]
    small = [name for name in known if name != "class5"]
    lines = texts(found, fatal=True)
    assert len(small) >= 2
    assert len(lines) == len(small)
    assert all(f"class '{name}'" in line for name, line in zip(small, lines, strict=True))


def test_class_of_one_image_trains_and_is_told(tmp_path: Path) -> None:
    for label in range(5):
        for n in range(20 if label else 1):
            draw(tmp_path / f"mine/class{label}/{n:03}.png", label, noise=n)
    for seed in range(6):  # it never plays a new class
        data = settings(tmp_path / "mine", seed=seed)
        found = look(data, decode=True)
        assert found.classes[0] == ("class0", 1, 0, "known", 1)
        assert texts(found, fatal=True) == []
        assert "class 'class0' in" in "\n".join(texts(found, fatal=False))
        assert "trained on and not judged" in "\n".join(texts(found, fatal=False))
        for world in ("validation", "test"):
            views = build_views(data.model_copy(update={"world": world}))
            assert (views.known_train.labels == 0).sum() == 1
            assert 0 not in views.held_out_known.labels
            assert 0 not in views.validation_known.labels


def test_faults_of_the_test_world_are_told_before_it_is_asked_for(tmp_path: Path) -> None:
    """Finalists are measured in the test world; here its only new class has no test image."""
    for label, count in enumerate((20, 20, 20, 20, 1)):
        for n in range(count):
            draw(tmp_path / f"mine/class{label}/{n:03}.png", label, noise=n)
    names = {f"class{label}": "abbcd"[label] if label > 2 else "a" for label in range(5)}
    (tmp_path / "mine/superclasses.json").write_text(json.dumps(names))
    told = set()
    for seed in range(12):
        changes = {"split": "superclass", "novel_classes": 2, "seed": seed}
        found = look(settings(tmp_path / "mine", **changes))
        if found.classes[4].plays == "new in test":
            told |= set(texts(found, fatal=True))
    (text,) = told
    assert "the classes class4 have no test images" in text


def test_profile_that_leaves_out_most_images_is_told(tmp_path: Path) -> None:
    folder = unequal(tmp_path / "mine")
    found = look(settings(folder, profile={"exponential": {"imbalance_factor": 20.0}}))
    (text,) = texts(found, fatal=False)
    kept, had = (sum(getattr(row, part) or 0 for row in found.classes if row.plays == "known")
                 for part in ("trained", "train"))  # fmt: skip
    assert f"data.profile=exponential trains on {kept} of {had} images" in text
    assert "data.profile=natural" in text


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder:/nowhere/at/all", "folder not found: /nowhere/at/all"),
        ("folder:", "written folder:PATH"),
    ],
)
def test_folder_that_is_not_there(decode: bool, source: str, message: str) -> None:
    found = look(build(Data, {"source": source}), decode=decode)
    (text,) = texts(found, fatal=True)
    assert message in text
    assert found.classes == ()


def test_unrelated_images_are_looked_at_too(tmp_path: Path) -> None:
    folder = unequal(tmp_path / "mine")
    draw(tmp_path / "others/a.png")
    (tmp_path / "others/b.png").write_text("no")
    stream = {"unrelated": 5, "unrelated_source": f"folder:{tmp_path / 'others'}"}
    for decode in (False, True):
        (text,) = texts(look(settings(folder, stream=stream), decode=decode), fatal=True)
        assert "others/b.png can't be read as an image" in text
    stream["unrelated_source"] = f"folder:{tmp_path / 'none'}"
    (text,) = texts(look(settings(folder, stream=stream)), fatal=True)
    assert "folder not found" in text
    stream["unrelated_source"] = f"folder:{folder}"
    (text,) = texts(look(settings(folder, stream=stream)), fatal=True)
    assert "must differ from data.source" in text


def test_built_in_sources_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.data.sources.load_source", None)
    assert look(Data()) == ("digits", (), (), ())
    assert look(Data(), decode=True).faults == ()
    data = Data(source="cifar10", root=str(tmp_path))
    assert look(data).faults == ()
    (text,) = texts(look(data, decode=True), fatal=True)
    assert "'cifar10' is not below data.root" in text
    (tmp_path / "cifar10").mkdir()
    assert look(data, decode=True).faults == ()


def test_two_classes_leave_a_closed_world(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "mine", classes=2)
    (text,) = texts(look(settings(folder, novel_classes=2)), fatal=True)
    assert "allowed: 0 (with data.validation_novel_classes=0)" in text
    closed = settings(folder, novel_classes=0, validation_novel_classes=0)
    assert look(closed, decode=True).faults == ()


def test_twenty_lines_of_a_kind_and_a_count() -> None:
    faults = [Fault("left out", "a note", fatal=False)]
    faults += [Fault("unreadable files", f"{n}.png") for n in range(33)]
    faults += [Fault("protocol", "p")]
    lines = fault_lines(faults)
    assert lines[:MOST_LINES] == [f"{n}.png" for n in range(20)]
    assert lines[MOST_LINES:] == ["... 33 unreadable files in all", "p", "a note"]


def test_refusal_survives_the_way_to_another_process() -> None:
    faults = (Fault("a", "first"), Fault("b", "note", fatal=False), Fault("a", "second"))
    error = pickle.loads(pickle.dumps(DataError(faults)))
    assert error.faults == faults
    assert str(error) == "first (and 1 more)"


def test_readable_names() -> None:
    assert readable("caf\u00e9 \u732b") == "caf\u00e9 \u732b"
    assert readable("a\nb\x1b[31m") == "a\ufffdb\ufffd[31m"
    assert readable("\udcff").encode() == "\ufffd".encode()
