"""The study's journal: what a full disk, a kill and another reader find."""

import gc
import json
import os
import resource
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileBackend

from orchestrator.search.journal import SweepJournal


def test_every_line_is_on_disk_at_once_and_optuna_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = SweepJournal(path)
    for number in range(3):
        journal.append_logs([{"number": number}, {"text": "é\n"}])
        read = list(JournalFileBackend(str(path)).read_logs(0))
        assert read == [
            {"number": n} if i else {"text": "é\n"} for n in range(number + 1) for i in (1, 0)
        ]
        assert list(journal.read_logs(0)) == read
    assert list(journal.read_logs(5)) == [{"text": "é\n"}]


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = SweepJournal(path)
    journal.append_logs([{"whole": 1}])
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))  # room for a part of a line
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.append_logs([{"too": "long" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == whole
    journal.append_logs([{"next": 2}])
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert lines == list(journal.read_logs(0)) == [{"whole": 1}, {"next": 2}]


def test_the_file_is_let_go_with_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def held() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(os.path.realpath(link) == str(path.resolve()) for link in links)

    journal = SweepJournal(path)
    assert held() == 0  # who only reads needs no handle
    journal.append_logs([{}])
    assert held() == 1
    del journal
    gc.collect()
    assert held() == 0
