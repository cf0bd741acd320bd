"""The ledger: appended, read back, torn at its end, damaged in its middle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainables.data.shots.ledger import Ledger, complete
from trainables.errors import ConfigError

DECIDED = [("b1", "p1", "g1", "train"), ("b2", "p2", "g2", "test")]


def test_what_is_written_is_found_by_bytes_and_by_pixels(tmp_path: Path) -> None:
    path = tmp_path / "model/splits.jsonl"
    Ledger(path).append(DECIDED)
    book = Ledger(path)
    for found in (book.find("b2", "other"), book.find("other", "p2")):
        assert found is not None
        assert (found.group, found.part) == ("g2", "test")
    assert book.find("other", "other") is None


def test_lines_are_only_appended_and_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    Ledger(path).append(DECIDED)
    before = path.read_bytes()
    Ledger(path).append(DECIDED)
    assert path.read_bytes() == before
    now, first = Ledger(path).by_bytes["b1"].first_seen, "2020-01-01T00:00:00+00:00"
    before = before.replace(now.encode(), first.encode())
    path.write_bytes(before)
    Ledger(path).append([("b1", "p1", "g1", "test")])
    assert path.read_bytes().startswith(before)
    entry = Ledger(path).by_bytes["b1"]
    assert (entry.part, entry.first_seen) == ("test", first)


def test_of_two_files_with_the_same_pixels_each_has_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    Ledger(path).append([("b1", "p", "g1", "train"), ("b2", "p", "g2", "test")])
    for digest, wanted in (("b1", "train"), ("b2", "test"), ("b3", "test")):  # the later one
        found = Ledger(path).find(digest, "p")
        assert found is not None
        assert found.part == wanted


def test_a_line_of_a_joined_group_keeps_when_its_image_was_first_seen(tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    Ledger(path).append(DECIDED)
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**line, "first_seen": "2024-05-01T00:00:00+00:00"}) + "\n")
    Ledger(path).append([("b1", "p1", "joined", "train")])
    entry = Ledger(path).by_bytes["b1"]
    assert (entry.group, entry.first_seen) == ("joined", "2024-05-01T00:00:00+00:00")


def test_a_copy_completes_and_changes_nothing(tmp_path: Path) -> None:
    path, copy = tmp_path / "splits.jsonl", tmp_path / "copy.jsonl"
    Ledger(copy).append([("b1", "p1", "other", "test"), *DECIDED[1:]])
    Ledger(path).append(DECIDED[:1])
    assert (complete(path, copy), complete(path, copy)) == (1, 0)
    parts = {digest: (e.group, e.part) for digest, e in Ledger(path).by_bytes.items()}
    assert parts == {"b1": ("g1", "train"), "b2": ("g2", "test")}


@pytest.mark.parametrize("cut", [2, 20])
def test_a_torn_last_line_does_not_count_and_is_written_over(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    Ledger(path).append(DECIDED)
    path.write_bytes(path.read_bytes()[:-cut])
    book = Ledger(path)
    assert set(book.by_bytes) == {"b1"}
    book.append(DECIDED)
    assert [json.loads(line)["bytes"] for line in path.read_text().splitlines()] == ["b1", "b2"]


@pytest.mark.parametrize("end", ["", "\n\n", "\n  \n\n"])
def test_an_editor_may_take_the_last_break_or_add_empty_lines(end: str, tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    Ledger(path).append(DECIDED)
    path.write_text(path.read_text().rstrip("\n") + end)
    book = Ledger(path)
    assert {digest: entry.part for digest, entry in book.by_bytes.items()} == {
        "b1": "train",
        "b2": "test",
    }
    book.append([*DECIDED, ("b3", "p3", "g3", "val")])
    written = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    assert [line["bytes"] for line in written] == ["b1", "b2", "b3"]


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[]",
        '{"bytes": "b"}',
        '{"bytes":1,"pixels":"p","group":"g","part":"train","first_seen":""}',
    ],
)
def test_a_damaged_line_is_one_clear_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    Ledger(path).append(DECIDED)
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(ConfigError, match=r"splits.jsonl line 1 is damaged.*delete the line"):
        Ledger(path)


def test_a_part_that_there_is_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    Ledger(path).append(DECIDED)
    path.write_text(path.read_text().replace('"test"', '"tset"'))
    with pytest.raises(ConfigError, match=r"line 2 is damaged"):
        Ledger(path)
