from __future__ import annotations

from pathlib import Path

import pytest
from factory import make_record
from pydantic import ValidationError

from orchestrator.records import SweepRecord


def test_record_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    path = record.save(tmp_path / "deep")
    assert path == tmp_path / "deep" / "sweep.json"
    assert SweepRecord.load(tmp_path / "deep") == record


def test_saving_again_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    record = make_record(tmp_path / "arrays")
    record.save(tmp_path / "sweep")
    record.seconds = 7.0
    record.save(tmp_path / "sweep")
    assert SweepRecord.load(tmp_path / "sweep").seconds == 7.0
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.json"]


def test_unknown_key_is_an_error(tmp_path: Path) -> None:
    path = make_record(tmp_path / "arrays").save(tmp_path)
    path.write_text(path.read_text().replace('"seconds": 171.0', '"secs": 171.0'))
    with pytest.raises(ValidationError, match="secs"):
        SweepRecord.load(tmp_path)


def test_missing_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SweepRecord.load(tmp_path)
