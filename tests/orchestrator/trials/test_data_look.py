"""What is wrong with the data is said once in a sweep, whatever loads the data."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.trials.data_look import look_before_sweep
from tests.helpers.pictures import draw_folder
from trainables.data.data_settings import Data
from trainables.data.faults import Fault, log_faults, mark_shown
from trainables.data.views import build_views
from trainables.settings import assign, build


def test_a_sweep_says_once_that_files_were_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw_folder(tmp_path / "set", classes=6)
    (folder / "train/class1/bad.png").write_bytes(b"no image")
    plain = {"source": f"folder:{folder}", "root": str(tmp_path), "skip_unreadable": True}
    sizes = {"validation_per_class": 4, "stream": {"unrelated": 0}}
    data = build(Data, {**plain, **sizes})
    caplog.set_level(logging.WARNING)
    look_before_sweep(data, Console(width=300))
    for world in ("validation", "test"):
        build_views(assign(data, {"world": world}))
    said = capsys.readouterr().out + caplog.text
    assert said.count("skipped 1 unreadable files") == 1, said


def test_each_line_is_logged_once_and_not_after_it_was_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = (Fault("kind", f"a line about data {n}", fatal=False) for n in (1, 2))
    mark_shown([two])
    for _ in range(2):
        log_faults([one, two])
    assert [record.getMessage() for record in caplog.records] == ["a line about data 1"]
