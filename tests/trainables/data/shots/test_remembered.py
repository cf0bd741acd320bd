"""A second look reads what changed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.photos import photo
from trainables.data.shots import remembered
from trainables.data.shots.remembered import Remembered


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of files that are read from now on."""
    names: list[str] = []
    original = remembered.read_contents

    def noting(files, progress=None):
        names.extend(Path(path).name for path in files)
        return original(files, progress)

    monkeypatch.setattr(remembered, "read_contents", noting)
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", -60.0)
    return names


def test_unchanged_files_are_not_read_again(tmp_path: Path, read: list[str]) -> None:
    files = [str(photo(tmp_path / f"{n}.png", n)) for n in range(3)]
    store = tmp_path / "contents.npz"
    first = Remembered(store).look(files)
    assert read == ["0.png", "1.png", "2.png"]
    read.clear()
    second = Remembered(store).look(files)
    assert read == []
    for path in files:
        assert second[path].bytes_digest == first[path].bytes_digest
        assert second[path].size == first[path].size
        assert (second[path].thumbnail == first[path].thumbnail).all()


def test_changed_files_are_read(tmp_path: Path, read: list[str]) -> None:
    files = [str(photo(tmp_path / f"{n}.png", n)) for n in range(3)]
    store = tmp_path / "contents.npz"
    first = Remembered(store).look(files)
    read.clear()
    before = os.stat(files[1])
    photo(tmp_path / "1.png", 7)
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))  # its change time tells
    second = Remembered(store).look(files)
    assert read == ["1.png"]
    assert second[files[1]].pixel_digest != first[files[1]].pixel_digest
    read.clear()
    Remembered(store).look(files, verify=True)
    assert read == ["0.png", "1.png", "2.png"]


def test_a_file_that_may_still_change_is_read_again(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED_SECONDS", 60.0)
    files = [str(photo(tmp_path / "0.png", 0))]
    Remembered(tmp_path / "contents.npz").look(files)
    Remembered(tmp_path / "contents.npz").look(files)
    assert read == ["0.png", "0.png"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"x" * 1000])
def test_a_damaged_store_counts_as_empty(content: bytes, tmp_path: Path, read: list[str]) -> None:
    files = [str(photo(tmp_path / "0.png", 0))]
    (tmp_path / "contents.npz").write_bytes(content)
    assert Remembered(tmp_path / "contents.npz").look(files)[files[0]].size == (64, 64)


def test_what_is_gone_is_kept_while_the_ledger_names_it(tmp_path: Path, read: list[str]) -> None:
    files = [str(photo(tmp_path / f"{n}.png", n)) for n in range(3)]
    store = Remembered(tmp_path / "contents.npz")
    digests = [content.bytes_digest for content in store.look(files).values()]
    named = store.contents[digests[0]].bytes_digest
    rest = [path for path in files if store.look([path])[path].bytes_digest != named][:1]
    Remembered(tmp_path / "contents.npz").keep(rest, [named])
    kept = Remembered(tmp_path / "contents.npz").contents
    assert set(kept) == {named, store.look(rest)[rest[0]].bytes_digest}


def test_a_file_that_comes_while_others_are_read_lends_its_content_to_none(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = str(photo(tmp_path / "late.png", 0))
    monkeypatch.setattr(remembered, "file_facts", lambda path: [])  # it was not there yet
    store = Remembered(tmp_path / "contents.npz")
    assert store.look([late])[late].size == (64, 64)
    missing = str(tmp_path / "missing.png")
    assert store.look([missing])[missing].reason == "No such file or directory"
