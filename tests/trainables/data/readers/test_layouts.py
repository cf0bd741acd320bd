"""Folders as people have them: names of parts, links, system files, tables, copies."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import draw, draw_folder
from trainables.data.faults import DataError, Fault
from trainables.data.folders import Loaded, load_folder, read_folder
from trainables.data.loose_images import read_loose_images
from trainables.data.readers.layouts import scan
from trainables.data.source_cache import Source
from trainables.errors import ConfigError


def read(folder: Path, *, skip: bool = False) -> Loaded:
    return read_folder(folder, None, skip_unreadable=skip, cache=folder.parent / "cache")


def counts(source: Source) -> dict[str, int]:
    return dict(Counter(source.class_names[label] for label in source.labels))


def told(folder: Path, *, skip: bool = False) -> str:
    """Return the one line that refuses a folder."""
    with pytest.raises(ConfigError) as caught:
        read(folder, skip=skip)
    message = str(caught.value)
    assert "\n" not in message
    return message


def texts(faults: list[Fault], kind: str) -> list[str]:
    return [fault.text for fault in faults if fault.kind == kind]


# --- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["test", "Testing"])
def test_parts_in_any_letter_case(train: str, test: str, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    (folder / "train").rename(folder / train)
    (folder / "test").rename(folder / test)
    source, faults = read(folder)
    assert source.class_names == ("class0", "class1")
    assert np.bincount(source.labels[source.is_test]).tolist() == [4, 4]
    assert faults == []


@pytest.mark.parametrize("name", ["val", "Valid", "validation"])
def test_validation_joins_train_beside_a_test(name: str, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    for n in range(3):
        draw(folder / f"{name}/class1/{n}.png", 1, noise=50 + n)
    source, faults = read(folder)
    assert np.bincount(source.labels[~source.is_test]).tolist() == [12, 15]
    assert np.bincount(source.labels[source.is_test]).tolist() == [4, 4]
    (line,) = texts(faults, "own validation")
    assert f"{name}/ joins train/" in line
    assert "rename" not in line


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set")
    shutil.copytree(folder / "train", folder / "Training")
    assert "both for train: merge them" in told(folder)


def test_test_without_train_is_refused(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set")
    (folder / "train").rename(folder / "valid")
    assert "has test/, valid/ and no train/" in told(folder)


@pytest.mark.parametrize("inner", ["", "steam/"])
def test_train_beside_classes_is_a_class(inner: str, tmp_path: Path) -> None:
    for color, name in enumerate(("bus", "car", f"train/{inner}")):
        for n in range(5):
            draw(tmp_path / f"set/{name}/{n}.png", color, noise=n)
    source, faults = read(tmp_path / "set")
    assert counts(source) == {"bus": 5, "car": 5, "train": 5}
    lines = texts(faults, "layout")
    assert len(lines) == bool(inner)  # only then it might have been meant as a part
    assert all("train/ is read as a class, because bus/, car/ lies beside" in t for t in lines)


@pytest.mark.parametrize("beside", [".git", "__MACOSX", "@eaDir", "annotations"])
def test_what_is_no_class_does_not_make_train_one(beside: str, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    if beside == "annotations":
        (folder / beside).mkdir()
        (folder / beside / "boxes.json").write_text("{}")
    else:
        draw(folder / beside / "x.png")
    assert read(folder).source.class_names == ("class0", "class1")


@pytest.mark.parametrize("part", ["test", "val"])
@pytest.mark.parametrize("inner", ["", "images/"])
def test_unsorted_images_of_a_part_are_left_out_with_a_line(
    part: str, inner: str, tmp_path: Path
) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    shutil.rmtree(folder / "test")
    draw(folder / f"{part}/{inner}1.png", 3)
    source, faults = read(folder)
    assert counts(source) == {"class0": 12, "class1": 12}
    assert source.is_test.sum() == 4
    (line,) = texts(faults, "layout")
    assert f"{part} has no class folders and is left out" in line


def test_folder_within_a_folder_is_named(tmp_path: Path) -> None:
    draw_folder(tmp_path / "set/flowers", test=0)
    assert f"give folder:{tmp_path}/set/flowers" in told(tmp_path / "set")


def test_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_text("x")
    assert "is a file; unpack it" in told(tmp_path / "photos.zip")


# --- what counts ------------------------------------------------------------------------------


def test_images_beside_a_folder_images_count(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    inner = folder / "train/class0/images"
    inner.mkdir()
    (folder / "train/class0/000.png").rename(inner / "000.png")
    (folder / "train/class0/boxes.txt").write_text("no image")
    source, faults = read(folder)
    assert counts(source) == {"class0": 16, "class1": 16}
    (line,) = texts(faults, "files beside images/")
    assert "files beside images/ left out (1): boxes.txt" in line


def test_system_files_never_count_and_are_named_in_one_line(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    thumbnail = folder / "train/class0/@eaDir/000.png/SYNOPHOTO_THUMB_M.png"
    draw(thumbnail)
    for name in ("Thumbs.db", ".DS_Store", "._000.png", "desktop.ini"):
        (folder / "train/class1" / name).write_bytes(b"x")
    (folder / "test/.ipynb_checkpoints").mkdir()
    draw(folder / "__MACOSX/train/class0/x.png")
    source, faults = read(folder)
    assert counts(source) == {"class0": 16, "class1": 16}
    (line,) = [fault.text for fault in faults]
    assert "hidden and system files left out (7): " in line
    assert not faults[0].fatal


def test_images_beside_class_folders_are_named(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    for place in ("", "train/", "train/"):
        draw(folder / f"{place}{len(list((folder / place).iterdir()))}.png")
    (folder / "README.md").write_text("mine")
    source, faults = read(folder)
    assert len(source.images) == 32
    lines = texts(faults, "images beside the class folders")
    assert [("left out (1)" in t, "left out (2)" in t) for t in lines] == [(1, 0), (0, 1)]


def test_empty_class_folders_are_all_named_and_can_be_left_out(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    for name in ("empty1", "empty2"):
        (folder / "train" / name / "deeper").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        read(folder)
    found = texts(list(caught.value.faults), "empty class folders")
    assert [name in text for name, text in zip(("empty1", "empty2"), found, strict=True)] == [1, 1]
    assert "(and 1 more)" in str(caught.value)
    source, faults = read(folder, skip=True)
    assert source.class_names == ("class0", "class1")
    assert "empty class folders left out (2)" in texts(faults, "empty class folders")[0]


def test_class_whose_files_are_all_unreadable_is_left_out_of_a_flat_folder(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=3, test=0)
    for path in (folder / "class1").iterdir():
        path.write_text("no")
    source, _ = read(folder, skip=True)
    assert counts(source) == {"class0": 12, "class2": 12}
    assert source.labels.max() == 1
    assert len(source.skipped) == 12


# --- links ------------------------------------------------------------------------------------


def test_linked_folders_are_read(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    more = tmp_path / "more"
    for n in range(5):
        draw(more / f"deep/{n}.png", 0, noise=70 + n)
    (folder / "train/class0/more").symlink_to(more)
    (folder / "train/class1").rename(tmp_path / "elsewhere")
    (folder / "train/class1").symlink_to(tmp_path / "elsewhere")
    assert counts(read(folder).source) == {"class0": 21, "class1": 16}


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_links_to_a_folder_above_end_the_walk(target: str, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    (folder / "train/class0/loop").symlink_to(target)
    source, faults = read(folder)
    assert counts(source) == {"class0": 16, "class1": 16}
    assert "loop leads to a folder that is read already" in texts(faults, "links")[0]


def test_two_links_to_one_folder_count_once(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    draw(tmp_path / "more/0.png", 0, noise=70)
    for name in ("one", "two"):
        (folder / "train/class0" / name).symlink_to(tmp_path / "more")
    assert counts(read(folder).source)["class0"] == 17


@pytest.mark.parametrize("where", ["train/class0/x.png", "train/gone", "train/class0/deeper"])
def test_link_to_nothing_is_one_line_and_can_be_left_out(where: str, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    (folder / where).symlink_to("/nowhere/x.png")
    assert f"{where} is a link to /nowhere/x.png, which does not exist" in told(folder)
    source, faults = read(folder, skip=True)
    assert counts(source) == {"class0": 16, "class1": 16}
    assert "broken links and files left out (1)" in texts(faults, "broken links and files")[0]


def test_link_to_itself_and_pipes_are_one_line(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    (folder / "train/class0/x.png").symlink_to("x.png")
    assert "x.png" in told(folder)
    (folder / "train/class0/x.png").unlink()
    os.mkfifo(folder / "train/class0/y.png")  # reading it would wait for ever
    assert "y.png is no regular file" in told(folder)


def test_links_among_unrelated_images(tmp_path: Path) -> None:
    draw(tmp_path / "more/a.png")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/more").symlink_to(tmp_path / "more")
    (tmp_path / "loose/up").symlink_to("..")
    (tmp_path / "loose/gone.png").symlink_to("/nowhere")
    with pytest.raises(DataError, match=r"gone\.png is a link to /nowhere"):
        read_loose_images(tmp_path / "loose", 8, skip_unreadable=False, cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "loose/gone.png").unlink()
    loaded = read_loose_images(tmp_path / "loose", 8, skip_unreadable=False, cache=tmp_path / "c")
    assert len(loaded.source.images) == 1


# --- names ------------------------------------------------------------------------------------


def test_names_that_are_no_utf8_are_shown_with_replacements(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    for number, raw in enumerate((b"caf\xe9", b"caf\xe8")):
        for part, count in (("train", 4 + number), ("test", 2)):
            for n in range(count):
                path = draw(tmp_path / "drawn.png", 5 + number, noise=n + 100 * (part == "test"))
                target = os.path.join(os.fsencode(folder / part), raw)
                os.makedirs(target, exist_ok=True)
                shutil.copy(path, os.path.join(target, b"%d.png" % n))
    os.makedirs(os.path.join(os.fsencode(folder), b"train/caf\xe9"), exist_ok=True)
    bad = os.path.join(os.fsencode(folder), b"train/caf\xe9/\xff.png")
    with open(bad, "wb") as file:
        file.write(b"no image")
    source, _ = read(folder, skip=True)
    assert counts(source) == {"class0": 16, "class1": 16, "caf\ufffd": 7, "caf\ufffd (2)": 6}
    assert source.skipped == ("train/caf\ufffd/\ufffd.png",)
    again, _ = read(folder, skip=True)
    assert again.class_names == source.class_names


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    """An archive made on a Mac holds ``e`` and an accent, others hold one letter."""
    folder = draw_folder(tmp_path / "set", classes=2)
    (folder / "train/class0").rename(folder / "train/caf\u00e9")
    (folder / "test/class0").rename(folder / "test/cafe\u0301")
    assert counts(read(folder).source) == {"caf\u00e9": 16, "class1": 16}


def test_class_in_one_part_with_nearly_the_name_of_another(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=3)
    (folder / "test/class0").rename(folder / "test/Class0")
    with pytest.raises(DataError) as caught:
        read(folder)
    found = texts(list(caught.value.faults), "classes in one part only")
    assert "'Class0'" in found[0]
    assert "did you mean 'class0'?" in found[0]
    assert "'class0'" in found[1]


# --- copies -----------------------------------------------------------------------------------


def test_copy_of_a_test_image_is_no_training_image(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    copy = folder / "train/class1/copy.bmp"  # other bytes, other class, equal pixels
    Image.open(folder / "test/class0/002.png").save(copy)
    for _ in range(2):  # decoded, then from the cache
        source, faults = read(folder)
        assert counts(source) == {"class0": 16, "class1": 16}
        assert source.copies == ("train/class1/copy.bmp",)
        (line,) = texts(faults, "copies of test images")
        assert "copies of test images left out (1): train/class1/copy.bmp" in line
    test = {image.tobytes() for image in source.images[source.is_test]}
    assert not test & {image.tobytes() for image in source.images[~source.is_test]}


def test_copies_stay_on_one_side_where_the_test_is_split_off(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2, train=20, test=0)
    plain = read(folder).source
    for n in range(20):
        shutil.copy(folder / f"class0/{n:03}.png", folder / f"class0/copy{n:03}.png")
    source, _ = read(folder)
    test = {image.tobytes() for image in source.images[source.is_test]}
    assert not test & {image.tobytes() for image in source.images[~source.is_test]}
    assert source.is_test.sum() == plain.is_test.sum()
    assert test == {image.tobytes() for image in plain.images[plain.is_test]}
    assert len(source.copies) == 4
    assert counts(source) == {"class0": 36, "class1": 20}


def test_class_that_trains_on_copies_alone_is_refused(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=3)
    shutil.rmtree(folder / "train/class1")
    shutil.copytree(folder / "test/class1", folder / "train/class1")
    assert "class 'class1'" in told(folder)
    assert "trains on copies of test images alone" in told(folder)


# --- tables -----------------------------------------------------------------------------------


def mini(root: Path) -> list[tuple[str, str]]:
    """Write images of three classes; return file names and classes."""
    rows = [(f"{label}{n}.png", label) for label in ("caf\u00e9", "b", "c") for n in range(5)]
    for color, (name, _) in enumerate(rows):
        draw(root / "images" / name, color)
    return rows


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [
        ("utf-8", ",", "\n"),
        ("utf-8-sig", ",", "\r\n"),  # Excel: "CSV UTF-8"
        ("cp1252", ";", "\r\n"),  # Excel in Europe: "CSV"
        ("utf-16", "\t", "\r\n"),  # Excel: "Unicode text"
    ],
)
def test_tables_as_spreadsheets_save_them(
    encoding: str, delimiter: str, end: str, tmp_path: Path
) -> None:
    lines = [delimiter.join(row) for row in [("Filename", "LABEL "), *mini(tmp_path / "set")]]
    empty = delimiter * 3
    text = end.join([*lines[:4], empty, *lines[4:], "", ""])
    (tmp_path / "set/train.csv").write_bytes(text.encode(encoding))
    assert counts(read(tmp_path / "set").source) == {"b": 5, "c": 5, "caf\u00e9": 5}


def test_rows_without_class_or_file_are_all_named(tmp_path: Path) -> None:
    rows = mini(tmp_path / "set")
    lines = ["filename,label", *(",".join(row) for row in rows[:-1])]
    lines += [rows[-1][0], ",b", "none.png,b"]
    (tmp_path / "set/train.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "set")
    found = texts(list(caught.value.faults), "incomplete lines")
    assert ["line 16 has no class" in found[0], "line 17 has no file name" in found[1]] == [1, 1]
    (gone,) = texts(list(caught.value.faults), "missing files")
    assert "train.csv line 18 lists" in gone
    assert "none.png, which does not exist" in gone
    left = texts(list(caught.value.faults), "files that no table lists")
    assert f"files that no table lists left out (1): {rows[-1][0]}" in left[0]


def test_file_with_two_classes_is_refused_in_one_table_and_across_tables(tmp_path: Path) -> None:
    rows = mini(tmp_path / "set")
    file = rows[0][0]
    lines = ["filename,label", *(",".join(row) for row in rows), f"{file},b"]
    (tmp_path / "set/train.csv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "set/val.csv").write_text(f"filename,label\n{file},c\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "set")
    within, across = texts(list(caught.value.faults), "files that two lines tell apart")
    assert f"train.csv line 17 gives {tmp_path}/set/images/{file} the class 'b', line 2" in within
    assert f"two tables give {file} the classes" in across


def test_changed_label_in_a_table_is_noticed(tmp_path: Path) -> None:
    rows = mini(tmp_path / "set")
    table = tmp_path / "set/train.csv"
    table.write_text("\n".join(["filename,label", *(",".join(row) for row in rows)]), "utf-8")
    assert counts(read(tmp_path / "set").source)["b"] == 5
    rows[5] = (rows[5][0], "c")
    table.write_text("\n".join(["filename,label", *(",".join(row) for row in rows)]), "utf-8")
    assert counts(read(tmp_path / "set").source) == {"b": 4, "c": 6, "caf\u00e9": 5}


@pytest.mark.parametrize("text", ["", "name,class\na.png,b", "filename;klasse\na;b"])
def test_table_without_the_columns_is_one_line(text: str, tmp_path: Path) -> None:
    mini(tmp_path / "set")
    (tmp_path / "set/train.csv").write_text(text)
    assert "must have the columns filename,label" in told(tmp_path / "set")


def test_annotations_of_tiny_imagenet_with_a_short_line(tmp_path: Path) -> None:
    for label in ("n01", "n02"):
        for n in range(3):
            draw(tmp_path / f"tiny/train/{label}/images/{n}.png", n)
            draw(tmp_path / f"tiny/val/images/{label}{n}.png", n)
    lines = [f"{label}{n}.png\t{label}\t0\t0\t8\t8" for label in ("n01", "n02") for n in range(3)]
    table = tmp_path / "tiny/val/val_annotations.txt"
    table.write_text("\n".join(lines))
    assert read(tmp_path / "tiny").source.is_test.sum() == 6
    table.write_text("\n".join([*lines, "n013.png"]))
    assert "val_annotations.txt line 7 has no class" in told(tmp_path / "tiny")


@pytest.mark.parametrize("text", ["{", "[1]", '{"class0": ["a"], "class1": "b"}'])
def test_superclasses_that_are_no_table_are_one_line(text: str, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    (folder / "superclasses.json").write_text(text)
    assert "superclasses.json" in told(folder)


def test_superclasses_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    text = '{"class0": "b", "class1": "a"}'
    (folder / "superclasses.json").write_text(text, encoding="utf-8-sig")
    assert read(folder).source.superclasses == (1, 0)


# --- the cache --------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 0.5, -1])
@pytest.mark.parametrize("size", [(16, 16), (400, 300)])
def test_folders_that_differ_in_content_alone_do_not_share_a_cache(
    where: float, size: tuple[int, int], tmp_path: Path
) -> None:
    """Names, sizes and times are equal, as after unpacking archives made with one fixed time."""
    for name in ("a", "b"):
        for label in range(2):
            for n in range(3):
                draw(tmp_path / name / f"class{label}/{n}.bmp", label, size, n)
    path = tmp_path / "b/class1/1.bmp"
    content = bytearray(path.read_bytes())
    position = int(where * len(content)) if where >= 0 else len(content) - 4
    content[max(position, 60)] ^= 0xFF  # behind the head
    path.write_bytes(content)
    for file in tmp_path.rglob("*.bmp"):
        os.utime(file, ns=(10**18, 10**18))
    first, second = (
        load_folder(tmp_path / name, 16, skip_unreadable=False, cache=tmp_path / "cache")
        for name in ("a", "b")
    )
    stored = [p for p in (tmp_path / "cache").iterdir() if p.name != ".keys"]
    assert len(stored) == 2
    if size == (16, 16):
        assert first.digest != second.digest


def test_copied_folder_shares_the_cache_of_its_original(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert read(folder).source.digest == read(tmp_path / "copy").source.digest
    assert len([p for p in (tmp_path / "cache").iterdir() if p.name != ".keys"]) == 1


def test_remembered_key_is_forgotten_with_a_change_that_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file rewritten in place, its old time put back: the time of the change tells."""
    monkeypatch.setattr("trainables.data.source_cache.SETTLED_SECONDS", -1.0)
    folder = draw_folder(tmp_path / "set", classes=2)
    path = folder / "train/class0/000.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "train/class0/000.bmp")
    path.unlink()
    path = folder / "train/class0/000.bmp"
    before = path.stat()
    first = read(folder).source.digest
    assert list((tmp_path / "cache/.keys").iterdir())
    Image.new("RGB", (8, 8), (3, 2, 1)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read(folder).source.digest != first


def test_file_that_vanishes_after_the_scan_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw_folder(tmp_path / "set", classes=2)
    gone = folder / "train/class0/000.png"

    def late(*words: object, **more: object) -> object:
        found = scan(*words, **more)  # type: ignore[arg-type]
        gone.unlink(missing_ok=True)
        return found

    monkeypatch.setattr("trainables.data.readers.scan.scan", late)
    assert "000.png can't be read as an image (No such file or directory)" in told(folder)


def test_scan_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder not found"):
        scan(tmp_path / "none", skip_unreadable=False)
