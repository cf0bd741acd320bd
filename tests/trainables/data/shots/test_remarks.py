"""Remarks: what is said, and what is not."""

from __future__ import annotations

from pathlib import Path

from trainables.data.shots.identity import Content
from trainables.data.shots.photo_set import Photo
from trainables.data.shots.remarks import catch_all_classes, remarks_about, untested_classes


def said(rows: list[tuple[str, str, Content]]) -> list[str]:
    """Return the remarks on images of a class and group."""
    photos = [
        Photo(Path(f"/p/{name}/{n}.jpg"), name, "test" if n % 2 else "train", group, "", "", c.size)
        for n, (name, group, c) in enumerate(rows)
    ]
    contents = {str(p.file): row[2] for p, row in zip(photos, rows, strict=True)}
    return remarks_about(photos, contents)


def plain(size: tuple[int, int] = (640, 480), camera: str = "", kind: str = "JPEG") -> Content:
    return Content("", size=size, camera=camera, kind=kind)


def test_one_size_camera_or_format_of_one_class_is_named() -> None:
    rows = [("lynx", f"{n}", plain()) for n in range(6)]
    odd = plain((640, 640), "Trap 5", "PNG")
    rows += [("ocelot", f"o{n}", odd) for n in range(6)]
    assert said(rows) == [
        "all 'lynx' images are 640x480, no others are: the model may learn the size",
        "all 'ocelot' images are 640x640, no others are: the model may learn the size",
        "all 'ocelot' images are taken by Trap 5, no others are: the model may learn the camera",
        "all 'lynx' images are JPEG files, no others are: the model may learn the file format",
        "all 'ocelot' images are PNG files, no others are: the model may learn the file format",
    ]
    assert said([*rows, ("lynx", "x", odd)]) == []
    assert said([*rows[:6], *rows[6:10], ("serval", "s", plain()), ("serval", "t", plain())]) == []


def test_catch_all_folders_are_named() -> None:
    assert catch_all_classes(["other", "None", "another", "no_class"]) == {
        "other",
        "None",
        "no_class",
    }
    rows = [("other", "a", plain()), ("other", "b", plain())]
    assert said(rows) == [
        "'other' is a catch-all folder: it is kept as a class, and never plays new"
    ]


def test_a_class_that_is_one_shot_is_named() -> None:
    rows = [("lynx", "a" if n < 20 else f"{n}", plain()) for n in range(30)]
    assert said(rows) == [
        "20 of 30 'lynx' images are one shot, by capture times or because they are alike: if they "
        "are several, give --groups"
    ]


def test_a_shot_under_two_labels_is_named_but_not_a_group_of_the_user() -> None:
    rows = [("lynx", "0123456789abcdef", plain()), ("lynx", "x", plain())]
    rows += [("ocelot", "0123456789abcdef", plain()), ("ocelot", "x", plain())]
    assert said(rows) == [
        "a shot holds images of two classes, lynx/0.jpg and ocelot/2.jpg: is a label wrong?"
    ]


def test_classes_without_test_images_are_named_with_the_reason() -> None:
    def trained(name: str, count: int, groups: int) -> list[Photo]:
        return [
            Photo(Path(f"/p/{name}/{n}"), name, "train", f"{name}{n % groups}", "", "", (1, 1))
            for n in range(count)
        ]

    photos = [*trained("a", 3, 3), *trained("b", 24, 24), *trained("c", 40, 4)]
    tested = trained("d", 40, 40)
    tested[3] = tested[3]._replace(part="test")
    late = trained("e", 25, 5)  # it was smaller when its parts were decided
    found = untested_classes([*photos, *tested, *late], own_test=False)
    assert found == {
        "under 25 images": ["a", "b"],
        "under 5 shots": ["c"],
        "no test images yet": ["e"],
    }
    found = untested_classes([*photos[:3], *tested], own_test=True)
    assert found == {"no images in test/": ["a"]}


def test_classes_of_one_name_in_two_spellings_are_named() -> None:
    rows = [(name, name, plain()) for name in ("Lynx", "big cat", "big-cat", "lynx", "+", "-", "a")]
    found = [line for line in said([row for row in rows for _ in "ab"]) if "spelling" in line]
    assert found == [
        f"{names} are classes of their own, with one name but for its spelling: if they are one "
        "class, merge the folders"
        for names in ("'Lynx' and 'lynx'", "'big cat' and 'big-cat'")
    ]


def test_a_run_of_one_camera_in_two_parts_is_named() -> None:
    def run(count: int) -> list[tuple[str, str, Content]]:
        taken = [3.0 * n for n in range(count)] + [1e6 * n for n in range(1, 21 - count)]
        contents = [plain(camera="X")._replace(taken=moment) for moment in taken]
        return [("lynx", f"{n}", content) for n, content in enumerate(contents)]

    (line,) = (line for line in said(run(11)) if "one run" in line)
    assert line.startswith("11 of 20 'lynx' images are one run of one camera, cut into shots of a")
    assert [line for line in said(run(10)) if "one run" in line] == []
