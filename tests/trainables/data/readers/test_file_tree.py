"""Files below a folder: links, clutter, what can't be read, and names of classes."""

from pathlib import Path

import pytest

from trainables.data.readers.file_tree import (
    class_labels,
    is_clutter,
    listing,
    looks_like_image,
    walk,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.png", "a/1.png", "a/deep/3.png", ".hidden/4.png", "a/Thumbs.db", "5.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "root"


def below(folder: Path, paths: list[str]) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in paths]


def test_all_files_are_found_sorted_and_clutter_is_told_apart(folder: Path) -> None:
    tree = walk(str(folder))
    assert below(folder, tree.files) == ["5.png", "a/1.png", "a/deep/3.png", "b/2.png"]
    assert sorted(below(folder, tree.clutter)) == [".hidden", "a/Thumbs.db"]
    assert (tree.broken, tree.repeated) == ([], [])


def test_a_listing_goes_one_level_deep(folder: Path) -> None:
    folders, tree = listing(str(folder))
    assert below(folder, folders) == ["a", "b"]
    assert below(folder, tree.files) == ["5.png"]


def test_links_are_followed_and_each_folder_is_read_once(folder: Path) -> None:
    (folder / "b/again").symlink_to(folder / "a")
    (folder / "a/up").symlink_to(folder)
    (folder / "b/one.png").symlink_to(folder / "a/1.png")
    tree = walk(str(folder))
    names = [Path(path).name for path in tree.files]
    assert sorted(names) == ["1.png", "2.png", "3.png", "5.png", "one.png"]
    assert len(tree.repeated) == 2
    above = walk(str(folder / "a"), above=[str(folder)])
    assert below(folder, above.repeated) == ["a/up"]


def test_what_cannot_be_read_is_named_with_the_reason(folder: Path) -> None:
    (folder / "gone.png").symlink_to("/nowhere/at.png")
    (folder / "circle").symlink_to(folder / "circle")
    broken = dict(walk(str(folder)).broken)
    assert broken[str(folder / "gone.png")] == "is a link to /nowhere/at.png, which does not exist"
    assert str(folder / "circle") in broken
    missing = listing(str(folder / "none"))[1].broken
    assert missing == [(str(folder / "none"), "can't be listed (No such file or directory)")]


@pytest.mark.parametrize(
    ("name", "clutter", "image"),
    [
        ("Thumbs.db", True, False),
        ("._photo.jpg", True, True),
        ("@eaDir", True, False),
        ("__MACOSX", True, False),
        ("photo.JPG", False, True),
        ("photo.jpg.txt", False, False),
        ("thumbs.db.png", False, True),
        ("readme", False, False),
    ],
)
def test_names_tell_clutter_and_images(name: str, clutter: bool, image: bool) -> None:
    assert (is_clutter(name), looks_like_image(name)) == (clutter, image)


def test_class_names_are_composed_and_told_apart() -> None:
    labels = class_labels(["cafe\u0301", "caf\u00e9", "dog"])
    assert labels == {"cafe\u0301": "caf\u00e9", "caf\u00e9": "caf\u00e9", "dog": "dog"}
    odd = class_labels(["caf\udce8", "caf\udce9", "caf\ufffd"])
    assert len(set(odd.values())) == 3
    assert odd["caf\ufffd"] == "caf\ufffd"
