"""Benchmarks say what they measured: the ratio's direction, the table, the page, wrong names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.__main__ as table
from benchmarks import print_row


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    row: dict[str, object] = json.loads(capsys.readouterr().out)
    return row


def test_the_ratio_says_how_many_times_less_ours_needs(capsys: pytest.CaptureFixture[str]) -> None:
    times = {"ours": [1.0, 2.0, 9.0], "rival": [6.0, 5.0, 4.0]}
    assert not print_row("file/case", "rival", times, goal=2.6)
    row = printed(capsys)
    assert row["ratio"] == 2.5
    assert row["spread"] == {"ours": 9.0, "rival": 1.5}
    assert print_row("file/case", "rival", times, goal=2.4)


def test_a_largest_ratio_is_ours_over_the_rivals(capsys: pytest.CaptureFixture[str]) -> None:
    times = {"ours": [1.0], "rival": [4.0]}
    assert print_row("file/case", "rival", times, goal=0.3, most=True)
    assert printed(capsys)["ratio"] == 0.25
    assert not print_row("file/case", "rival", times, goal=0.2, most=True)


def test_a_wrong_result_is_never_fast_enough(capsys: pytest.CaptureFixture[str]) -> None:
    times = {"ours": [1.0], "rival": [4.0]}
    assert not print_row("file/case", "rival", times, goal=1.0, correct=False)
    assert printed(capsys)["passed"] is False


def test_the_page_has_a_line_for_every_benchmark_and_says_what_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_row("heads/one", "loop", {"ours": [1.0], "loop": [30.0]}, goal=15.0)
    (tmp_path / "heads.jsonl").write_text(capsys.readouterr().out)
    monkeypatch.setattr(table, "ROWS", tmp_path)
    lines = table.page().splitlines()
    assert "| heads/one | loop | 30 | 15 | ours 1.0, loop 1.0 | yes |" in lines
    for name in set(table.names()) - {"heads"}:
        assert f"| {name} | | not measured | | | |" in lines


@pytest.mark.parametrize("name", table.names())
def test_a_benchmark_says_its_goal_and_how_it_is_run(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "goal" in done.stdout.lower()
    assert f"benchmarks.{name}" in done.stdout


def test_an_unknown_benchmark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "benchmarks", "lader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no benchmark called lader" in done.stderr
