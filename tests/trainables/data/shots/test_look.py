"""`look_at_photos`: folders that grow, shrink and change, and what never changes with them."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.photos import photo, photo_folder, scene
from trainables.data.readers.tables import scan_table
from trainables.data.shots.look import look_at_photos
from trainables.data.shots.photo_set import PhotoSet, write_table
from trainables.data.source_names import Columns
from trainables.errors import ConfigError

Look = Callable[..., PhotoSet]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    def again(folder: Path | None = None, **options: object) -> PhotoSet:
        ledger = tmp_path / "model/splits.jsonl"
        return look_at_photos(folder or tmp_path / "photos", ledger=ledger, **options)

    return again


def parts(found: PhotoSet) -> dict[str, str]:
    """Return the part of each image by its pixels."""
    return {photo.pixel_digest: photo.part for photo in found.photos}


def reasons(found: PhotoSet) -> dict[str, str]:
    return {str(out.file.relative_to(found.folder)): out.reason for out in found.left_out}


def test_first_look_parts_each_image_once(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 40, "ocelot": 30, "serval": 24})
    found = look()
    assert found.classes == ["lynx", "ocelot", "serval"]
    assert len(found.photos) == 94
    assert len({photo.group for photo in found.photos}) == 94
    assert found.left_out == []
    tested = Counter(p.class_name for p in found.photos if p.part == "test")
    assert tested["serval"] == 0
    assert 2 <= tested["lynx"] <= 16
    assert 2 <= tested["ocelot"] <= 12
    assert found.small == {"serval"}
    assert found.photos[0].file == folder / "lynx/000.png"
    assert found.photos[0].size == (64, 64)
    assert found.remarks == []


def test_the_ledger_holds_what_was_decided(tmp_path: Path, look: Look) -> None:
    photo_folder(tmp_path / "photos", {"lynx": 30})
    found = look()
    written = (tmp_path / "model/splits.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert len(lines) == 30
    by_bytes = {photo.bytes_digest: photo for photo in found.photos}
    for line in lines:
        photo = by_bytes[line["bytes"]]
        assert (line["pixels"], line["group"], line["part"]) == (
            photo.pixel_digest,
            photo.group,
            photo.part,
        )


def test_the_table_is_read_back_with_the_same_parts(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx, spotted": 30, "ocelot": 12})
    (folder / "val").mkdir()
    found = look()
    table = tmp_path / "model/photos.csv"
    write_table(found, table)
    layout = scan_table(table, Columns(), skip_unreadable=False)
    assert [fault for fault in layout.faults if fault.fatal] == []
    assert {(row.path, row.label, row.is_test, row.group) for row in layout.rows} == {
        (str(p.file), p.class_name, p.part == "test", p.group) for p in found.photos
    }


def test_a_second_look_changes_nothing_and_reads_nothing(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 30, "ocelot": 12})
    for path in folder.rglob("*.png"):  # settled: changed long ago
        os.utime(path, (1e9, 1e9))
    first = look()
    ledger = (tmp_path / "model/splits.jsonl").read_bytes()
    assert look() == first
    assert (tmp_path / "model/splits.jsonl").read_bytes() == ledger


def test_a_folder_that_doubles_moves_nothing(tmp_path: Path, look: Look) -> None:
    photo_folder(tmp_path / "photos", {"lynx": 40, "ocelot": 20})
    before = parts(look())
    photo_folder(tmp_path / "photos/more", {"x": 1}, first=900)
    shutil.rmtree(tmp_path / "photos/more")
    for n in range(40):
        photo(tmp_path / f"photos/lynx/a{n}.png", 1000 + n)
        photo(tmp_path / f"photos/ocelot/a{n}.png", 2000 + n)
    after = look()
    assert len(after.photos) == 140
    assert {digest: parts(after)[digest] for digest in before} == before
    new = [p for p in after.photos if p.pixel_digest not in before and p.class_name == "ocelot"]
    assert 2 <= sum(p.part == "test" for p in new) < 20  # now it is large enough to be tested
    assert after.small == frozenset()


def test_renamed_moved_and_relabelled_images_keep_their_part(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 30, "ocelot": 30})
    before = parts(look())
    for n, path in enumerate(sorted((folder / "lynx").iterdir())):
        path.rename(folder / ("lynx" if n % 2 else "ocelot") / f"renamed{n}.png")
    assert parts(look()) == before


def test_images_that_come_back_keep_their_part(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 30, "ocelot": 30})
    before = parts(look())
    shutil.move(folder / "lynx", tmp_path / "away")
    assert look().classes == ["ocelot"]
    shutil.move(tmp_path / "away", folder / "lynx")
    assert parts(look()) == before


def test_copies_are_named_and_one_is_kept(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 30, "ocelot": 30})
    first = look()
    test = next(p.file for p in first.photos if p.part == "test" and p.class_name == "lynx")
    train = next(p.file for p in first.photos if p.part == "train" and p.class_name == "lynx")
    shutil.copy(test, folder / "lynx/0copy.png")
    Image.open(train).save(folder / "lynx/zcopy.png", compress_level=1)  # other bytes
    again = look()
    assert parts(again) == parts(first)
    assert len(again.photos) == 60
    assert reasons(again) == {
        "lynx/0copy.png": f"copy of the test image lynx/{test.name}",
        "lynx/zcopy.png": f"copy of lynx/{train.name}",
    }


def test_one_image_under_two_labels_is_named_and_left_out(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 30, "ocelot": 30})
    shutil.copy(folder / "lynx/003.png", folder / "ocelot/x.png")
    found = look()
    assert len(found.photos) == 59
    assert reasons(found) == {
        "lynx/003.png": "same image under labels lynx and ocelot",
        "ocelot/x.png": "same image under labels lynx and ocelot",
    }


@pytest.mark.parametrize("count", [10, 40])
def test_a_class_that_lies_under_two_labels_encoded_anew_is_one_shot_a_picture(
    tmp_path: Path, look: Look, count: int
) -> None:
    """Its copies would else be in training and in test: a quarter of all pairs of these classes."""
    folder = photo_folder(tmp_path / "photos", {"cat": count, "dog": count})
    (folder / "katze").mkdir()
    for path in (folder / "cat").iterdir():
        Image.open(path).save(folder / f"katze/{path.stem}.jpg", quality=80)
    found = look()
    groups = {(p.class_name, p.file.stem): p.group for p in found.photos}
    assert len(groups) == 3 * count
    for n in range(count):
        assert groups["cat", f"{n:03}"] == groups["katze", f"{n:03}"]
    assert len({p.group for p in found.photos}) == 2 * count
    assert any("two classes" in line for line in found.remarks)


def test_own_parts_are_respected_and_copies_of_test_images_do_not_train(
    tmp_path: Path, look: Look
) -> None:
    root = tmp_path / "photos"
    photo_folder(root / "train", {"lynx": 10, "ocelot": 10})
    photo_folder(root / "val", {"lynx": 2, "ocelot": 2}, first=100)
    photo_folder(root / "test", {"lynx": 3}, first=200)
    shutil.copy(root / "test/lynx/001.png", root / "train/lynx/copy.png")
    shutil.copy(root / "val/lynx/001.png", root / "train/lynx/copy2.png")
    found = look()
    assert found.own_parts == {"train", "val", "test"}
    assert {p.part for p in found.photos} == {"train", "val", "test"}
    assert all(p.part == p.file.parts[-3] for p in found.photos)
    assert reasons(found) == {
        "train/lynx/copy.png": "copy of the test image test/lynx/001.png",
        "train/lynx/copy2.png": "copy of the val image val/lynx/001.png",
    }
    assert found.small == {"ocelot"}


def test_what_is_no_image_is_named(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 6, "ocelot": 6})
    (folder / "lynx/notes.txt").write_text("seen at noon")
    (folder / "lynx/torn.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "ocelot/empty.png").write_bytes(b"")
    photo(folder / "loose.png", 500)
    photo(folder / "unlabelled/deep/1.png", 501)
    found = look()
    assert len(found.photos) == 12
    assert reasons(found) == {
        "lynx/notes.txt": "no image",
        "lynx/torn.jpg": "unreadable (the file is not an image of a known format)",
        "ocelot/empty.png": "unreadable (the file is empty)",
    }
    assert found.loose == [folder / "loose.png", folder / "unlabelled/deep/1.png"]
    assert found.classes == ["lynx", "ocelot"]


def test_no_folder_is_one_clear_line(tmp_path: Path, look: Look) -> None:
    with pytest.raises(ConfigError, match="folder not found"):
        look()
    (tmp_path / "photos/lynx").mkdir(parents=True)
    (tmp_path / "photos/lynx/a.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match="holds no image that can be read"):
        look()


def test_scenes_differ() -> None:
    assert np.abs(scene(1).astype(int) - scene(2)).mean() > 10


def test_images_encoded_anew_keep_their_part_also_when_the_first_are_gone(
    tmp_path: Path, look: Look
) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 40})
    before = {p.file.stem: (p.part, p.group) for p in look().photos}
    for path in sorted((folder / "lynx").iterdir()):
        Image.open(path).resize((90, 90)).save(folder / f"lynx/{path.stem}.jpg", quality=70)
        path.unlink()
    after = look()
    assert {p.file.stem: (p.part, p.group) for p in after.photos} == before
    assert after.left_out == []


def test_a_near_copy_joins_the_part_of_the_first(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 40})
    first = {p.file.stem: (p.part, p.group) for p in look().photos}
    for path in sorted((folder / "lynx").iterdir()):
        Image.open(path).save(folder / f"lynx/{path.stem} again.jpg", quality=80)
    again = look()
    assert len(again.photos) == 80
    assert {p.file.stem.removesuffix(" again"): (p.part, p.group) for p in again.photos} == first
    assert {len([p for p in again.photos if p.group == g]) for _, g in first.values()} == {2}


def test_a_burst_stays_together(tmp_path: Path, look: Look) -> None:
    root = tmp_path / "photos"
    for shot in range(12):  # shots of 5 images, 4 seconds apart, an hour between shots
        for n in range(5):
            taken = f"2024:05:01 {shot:02}:00:{4 * n:02}"
            photo(root / f"lynx/{shot}-{n}.jpg", 10 * shot + n, taken=taken)
    found = look()
    shots = {p.file.stem.partition("-")[0]: {p.group for p in found.photos} for p in found.photos}
    assert len(shots) == 12
    for shot in range(12):
        mine = [p for p in found.photos if p.file.stem.startswith(f"{shot}-")]
        assert len({(p.group, p.part) for p in mine}) == 1
        assert len(mine) == 5
    assert len({p.group for p in found.photos}) == 12
    tested = {p.group for p in found.photos if p.part == "test"}
    assert 2 <= len(tested) < 8


def test_an_image_that_links_two_parts_joins_neither(tmp_path: Path, look: Look) -> None:
    root = tmp_path / "photos"
    for n in range(40):  # ten seconds between two images: no bursts
        photo(root / f"lynx/{n:02}.jpg", n, taken=f"2024:05:01 00:{n // 6:02}:{n % 6 * 10:02}")
    first = {p.file.stem: p for p in look().photos}
    n = next(n for n in range(39) if first[f"{n:02}"].part != first[f"{n + 1:02}"].part)
    between = f"2024:05:01 00:{n // 6:02}:{n % 6 * 10 + 5:02}"
    photo(root / "lynx/between.jpg", 500, taken=between)
    found = look()
    assert {p.file.stem: p for p in found.photos} == first
    assert reasons(found) == {"lynx/between.jpg": "links train and test"}


def test_own_groups_replace_what_is_found(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 40})
    (folder / "lynx/000.png").rename(folder / "lynx/0000.png")
    found = look(groups="*??.png")
    groups = {p.file.stem: p.group for p in found.photos}
    assert groups["0000"] == "lynx/00"
    assert {groups[f"{n:03}"] for n in range(1, 40)} == {"lynx/0"}
    assert {p.part for p in found.photos} == {"train"}  # two groups
    assert found.remarks[0].startswith("39 of 40 'lynx' images are one shot")


def test_what_is_found_does_not_join_an_image_to_one_whose_group_the_user_says(
    tmp_path: Path, look: Look
) -> None:
    for n in range(4):  # one burst
        name = f"{'a' if n < 2 else 'free'}_{n}.jpg"
        photo(tmp_path / "photos/lynx" / name, n, taken=f"2024:05:01 00:00:0{2 * n}")
    assert len({p.group for p in look().photos}) == 1
    (tmp_path / "model/splits.jsonl").unlink()
    groups = {p.file.stem: p.group for p in look(groups="a_*.jpg").photos}
    assert groups["free_2"] == groups["free_3"]
    assert (groups["a_0"], groups["a_1"]) == ("lynx/0", "lynx/1")
    assert len(set(groups.values())) == 3


def test_corrected_labels_count_and_leave_files_alone(tmp_path: Path, look: Look) -> None:
    folder = photo_folder(tmp_path / "photos", {"lynx": 30, "ocelot": 30})
    before = parts(look())
    table = tmp_path / "corrected.csv"
    table.write_text("path,label\nlynx/003.png,ocelot\n")
    found = look(labels=table)
    assert parts(found) == before
    changed = [p for p in found.photos if p.file == folder / "lynx/003.png"]
    assert [p.class_name for p in changed] == ["ocelot"]
    table.write_text("path,label\nlynx/003.png,ozelot\n")
    with pytest.raises(ConfigError, match=r"'ozelot', which has no folder.*did you mean 'ocelot'"):
        look(labels=table)
    table.write_text("path,label\nlynx/3.png,ocelot\n")
    with pytest.raises(ConfigError, match=r"line 2 names 'lynx/3.png', no image of"):
        look(labels=table)


def test_an_image_moved_into_the_own_test_takes_its_burst_from_training(
    tmp_path: Path, look: Look
) -> None:
    root = tmp_path / "photos"
    photo_folder(root / "train", {"lynx": 10, "ocelot": 10})
    photo_folder(root / "test", {"lynx": 3, "ocelot": 3}, first=100)
    for n in range(3):
        photo(root / f"train/lynx/b{n}.jpg", 300 + n, taken=f"2024:05:01 00:00:0{4 * n}")
    assert look().left_out == []
    (root / "train/lynx/b1.jpg").rename(root / "test/lynx/b1.jpg")
    found = look()
    assert reasons(found) == {
        f"train/lynx/b{n}.jpg": "in one shot with the test image test/lynx/b1.jpg" for n in (0, 2)
    }
    assert all(p.part == p.file.parts[-3] for p in found.photos)


def test_folders_with_the_same_images_under_two_labels_are_one_clear_line(
    tmp_path: Path, look: Look
) -> None:
    folder = photo_folder(tmp_path / "photos", {"cat": 5})
    (folder / "katze").symlink_to(folder / "cat")
    said = r"all 10 are left out, such as cat/000.png \(same image under labels cat and katze\)"
    with pytest.raises(ConfigError, match=said):
        look()
    (folder / "katze").unlink()
    look()  # the ledger knows five images now
    (folder / "katze").symlink_to(folder / "cat")
    with pytest.raises(ConfigError, match=said):
        look()


def test_a_folder_without_a_name_is_no_class(tmp_path: Path, look: Look) -> None:
    photo_folder(tmp_path / "photos", {"cat": 3, " ": 2})
    found = look()
    assert found.classes == ["cat"]
    assert set(reasons(found).values()) == {"the name of its class folder is blank"}


def test_a_shot_that_two_own_parts_cut_is_in_the_first_of_them_alone(
    tmp_path: Path, look: Look
) -> None:
    root = tmp_path / "photos"
    for n, part in enumerate(["test", "val", "train"]):  # four seconds from one to the next
        photo(root / part / f"lynx/{n}.jpg", n, taken=f"2024:05:01 00:00:{4 * n:02}")
    photo(root / "train/ocelot/3.jpg", 3)
    assert reasons(look()) == {
        "train/lynx/2.jpg": "in one shot with the test image test/lynx/0.jpg",
        "val/lynx/1.jpg": "in one shot with the test image test/lynx/0.jpg",
    }


def test_a_time_lapse_is_cut_each_minute_and_said(tmp_path: Path, look: Look) -> None:
    for n in range(210):  # a frame every three seconds
        taken = f"2024:05:01 00:{3 * n // 60:02}:{3 * n % 60:02}"
        photo(tmp_path / f"photos/lynx/{n:03}.jpg", n, taken=taken)
    found = look()
    frames = sorted(found.photos, key=lambda p: p.file)
    shots: list[list[int]] = []
    for n, p in enumerate(frames):
        if n and p.group == frames[n - 1].group:
            shots[-1].append(n)
        else:
            shots.append([n])
    assert [len(shot) for shot in shots] == [21] * 10  # 0 to 60 seconds
    assert len({p.group for p in frames}) == 10
    assert {p.part for p in frames} == {"train", "test"}
    assert [remark.partition(":")[0] for remark in found.remarks] == [
        "210 of 210 'lynx' images are one run of one camera, cut into shots of a minute"
    ]


def test_a_time_lapse_in_which_nothing_happens_is_one_shot(tmp_path: Path, look: Look) -> None:
    root = tmp_path / "photos"
    photo_folder(root, {"ocelot": 30}, first=500)
    for n in range(60):  # one scene, other pixels, four minutes
        taken = f"2024:05:01 00:{4 * n // 60:02}:{4 * n % 60:02}"
        photo(root / f"lynx/{n}.jpg", 1, taken=taken, quality=35 + n)
    found = look()
    lynx = [p for p in found.photos if p.class_name == "lynx"]
    assert len(lynx) > 40
    assert len({p.group for p in lynx}) == 1
    assert {p.part for p in lynx} == {"train"}


def test_a_session_of_many_classes_is_many_shots(tmp_path: Path, look: Look) -> None:
    root = tmp_path / "photos"
    for n in range(120):  # four classes in turn, a photo every four seconds
        taken = f"2024:05:01 10:{4 * n // 60:02}:{4 * n % 60:02}"
        photo(root / "abcd"[n % 4] / f"{n:03}.jpg", n, taken=taken)
    found = look()
    assert len({p.group for p in found.photos}) == 120
    assert {p.class_name for p in found.photos if p.part == "test"} == set("abcd")
