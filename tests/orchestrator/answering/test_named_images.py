"""Words of a command to names of images: in order, in groups, and what gives none."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.answering.named_images import GROUP, Unreadable, named_images, some_images
from trainables.errors import ConfigError


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = ["2.jpg", "10.jpg", "notes.txt", ".hidden.jpg", "deep/1.PNG", "deep/er/3.webp"]
    for name in ["a/b[1].jpg", *names]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flat(*words: str) -> list[str | Unreadable]:
    return [name for group in named_images(words) for name in group]


def test_files_come_as_they_are_named(inbox: Path) -> None:
    assert flat("notes.txt", "10.jpg", "2.jpg", "10.jpg") == [
        "notes.txt", "10.jpg", "2.jpg", "10.jpg",
    ]  # fmt: skip


def test_a_folder_is_all_images_below_it_without_hidden_ones(inbox: Path) -> None:
    assert flat(".") == [
        "./10.jpg", "./2.jpg", "./a/b[1].jpg", "./deep/1.PNG", "./deep/er/3.webp",
    ]  # fmt: skip
    assert flat("deep/") == ["deep/1.PNG", "deep/er/3.webp"]


def test_links_to_folders_are_followed_once(inbox: Path) -> None:
    (inbox / "deep/up").symlink_to("..")
    (inbox / "deep/gone.jpg").symlink_to("nowhere")
    found = flat("deep")
    names = [name for name in found if isinstance(name, str)]
    assert names == [
        "deep/1.PNG", "deep/er/3.webp", "deep/up/10.jpg", "deep/up/2.jpg", "deep/up/a/b[1].jpg",
    ]  # fmt: skip
    assert [name for name in found if isinstance(name, Unreadable)] == [
        Unreadable("deep/gone.jpg", "is a link to nowhere, which does not exist")
    ]


def test_globs_in_quotes(inbox: Path) -> None:
    assert flat("*.jpg") == ["10.jpg", "2.jpg"]
    assert flat("**/*.[pP][nN][gG]") == ["deep/1.PNG"]
    assert flat("d*") == ["deep/1.PNG", "deep/er/3.webp"]  # a folder that matches
    assert flat("*.gif") == [Unreadable("*.gif", "no file has such a name")]


@pytest.mark.parametrize("word", ["deep/**", "deep**", "./**/*", "**", "*"])
def test_no_glob_names_an_image_twice(inbox: Path, word: str) -> None:
    """``**`` matches a folder and what is in it; the folder stands for all its images."""
    (inbox / "deep-sea.jpg").touch()
    found = [os.path.normpath(name) for name in flat(word) if isinstance(name, str)]
    below = ["deep/1.PNG", "deep/er/3.webp"]
    assert sorted(name for name in found if name.startswith("deep/")) == below
    assert len(set(found)) == len(found)
    assert ("deep-sea.jpg" in found) is (word != "deep/**")


def test_an_existing_file_wins_over_a_glob(inbox: Path) -> None:
    assert flat("a/b[1].jpg") == ["a/b[1].jpg"]


def test_what_is_not_there_keeps_its_place(inbox: Path) -> None:
    assert flat("2.jpg", "gone.jpg", "empty", "10.jpg") == [
        "2.jpg",
        Unreadable("gone.jpg", "no such file"),
        Unreadable("empty", "no images in this folder"),
        "10.jpg",
    ]


def test_groups_are_one_image_then_sixteen(inbox: Path) -> None:
    groups = list(named_images(["2.jpg"] * 40))
    assert [len(group) for group in groups] == [1, GROUP, GROUP, 7]


def test_folders_are_listed_when_they_are_asked_for(inbox: Path) -> None:
    groups = named_images(["2.jpg", "deep"])
    assert next(groups) == ["2.jpg"]
    (inbox / "deep/0.png").touch()
    assert next(groups) == ["deep/0.png", "deep/1.PNG", "deep/er/3.webp"]


class Arriving(io.RawIOBase):
    """Standard input whose bytes arrive in bursts; ``read`` counts those that were taken."""

    def __init__(self, bursts: list[bytes]) -> None:
        self.bursts, self.taken = iter(bursts), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        burst = next(self.bursts, b"")
        self.taken += 1
        buffer[: len(burst)] = burst
        return len(burst)


Arrive = Callable[..., Arriving]


@pytest.fixture
def arrive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arrive]:
    def bursts(*content: bytes) -> Arriving:
        raw = Arriving(list(content))
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(raw)))
        return raw

    return bursts


def test_a_name_on_standard_input_is_a_group_when_it_arrives(inbox: Path, arrive: Arrive) -> None:
    raw = arrive(b"2.jpg\n10.", b"jpg\r\n\ngone.jpg\n", b"deep")
    groups = named_images(["-"])
    assert (next(groups), raw.taken) == (["2.jpg"], 1)
    assert (next(groups), raw.taken) == (["10.jpg", Unreadable("gone.jpg", "no such file")], 2)
    assert list(groups) == [["deep/1.PNG", "deep/er/3.webp"]]


def test_names_that_are_no_utf8(inbox: Path, arrive: Arrive) -> None:
    Path(os.fsdecode(b"caf\xe9.png")).touch()
    arrive(b"caf\xe9.png\n")
    assert flat("-") == [os.fsdecode(b"caf\xe9.png")]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0\0", b"x" * 70_000], ids=str)
def test_an_image_on_standard_input_is_refused(arrive: Arrive, content: bytes) -> None:
    arrive(content[:60_000], content[60_000:])
    with pytest.raises(ConfigError, match="takes names of images, one a line"):
        list(named_images(["-"]))


def test_nothing_found_is_one_line(inbox: Path, arrive: Arrive) -> None:
    arrive()
    for words, text in (
        (["gone.jpg"], r"gone\.jpg: no such file$"),
        (["empty", "*.gif", "gone.jpg"], r"empty: no images in this folder \(and 2 more\)$"),
        (["-"], "no names on standard input"),
    ):
        with pytest.raises(ConfigError, match=text):
            some_images(named_images(words))


def test_a_closed_standard_input_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="no names on standard input"):
        some_images(named_images(["-"]))


def test_what_was_refused_before_the_first_image_stays_in_front(inbox: Path) -> None:
    groups = list(some_images(named_images(["gone.jpg", "empty", *["2.jpg"] * 17])))
    assert [name for group in groups for name in group][2:] == ["2.jpg"] * 17
    assert groups[0][:2] == [
        Unreadable("gone.jpg", "no such file"),
        Unreadable("empty", "no images in this folder"),
    ]
