"""A study goes on only if its journal and manifest are there and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.search.study_files import JOURNAL, check_study_files, read_journal
from orchestrator.search.study_manifest import FILE as MANIFEST
from trainables.errors import ConfigError

LINES = b'{"op": 0}\n{"op": 4}\n'


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "monday"
    folder.mkdir()
    (folder / JOURNAL).write_bytes(LINES)
    (folder / MANIFEST).write_text("{}", encoding="utf-8")
    return folder


def refusal(folder: Path, trials: int) -> str:
    with pytest.raises(ConfigError) as caught:
        check_study_files(folder, trials)
    message = str(caught.value)
    assert "\n" not in message
    assert "give a new --name" in message
    return message


def test_a_whole_study_and_a_new_one_may_go_on(sweep: Path, tmp_path: Path) -> None:
    check_study_files(sweep, 4)
    check_study_files(tmp_path / "new", 0)


def test_lines_are_those_of_the_file_without_a_torn_last_one(sweep: Path) -> None:
    assert read_journal(sweep / JOURNAL) == [b'{"op": 0}', b'{"op": 4}']
    (sweep / JOURNAL).write_bytes(LINES + b'{"op": 6, "valu')
    assert read_journal(sweep / JOURNAL) == [b'{"op": 0}', b'{"op": 4}']
    check_study_files(sweep, 4)
    assert read_journal(sweep / "no journal") == []


@pytest.mark.parametrize("damage", [b"{cut", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_line_in_the_middle_is_named(sweep: Path, damage: bytes) -> None:
    (sweep / JOURNAL).write_bytes(b'{"op": 0}\n' + damage + b'\n{"op": 4}\n')
    assert f"{JOURNAL}, line 2 is damaged" in refusal(sweep, 4)


def test_a_lost_file_is_named_with_what_still_knows_of_trials(sweep: Path) -> None:
    (sweep / MANIFEST).unlink()
    assert f"{MANIFEST} is lost, but sweep.json has 4 trials" in refusal(sweep, 4)
    assert f"{MANIFEST} is lost, but {JOURNAL} has trials" in refusal(sweep, 0)
    (sweep / JOURNAL).unlink()
    (sweep / MANIFEST).write_text("{}", encoding="utf-8")
    assert f"{JOURNAL} is lost, but sweep.json has 4 trials" in refusal(sweep, 4)


def test_a_journal_that_is_a_folder_is_one_line(sweep: Path) -> None:
    (sweep / JOURNAL).unlink()
    (sweep / JOURNAL).mkdir()
    assert "cannot be read: Is a directory" in refusal(sweep, 4)
