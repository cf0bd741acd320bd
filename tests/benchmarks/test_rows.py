"""Benchmarks say what they measured: the ratio's direction, the table, the page, wrong names."""

import datetime
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import benchmarks.__main__ as table
from benchmarks import goals as goals_module
from benchmarks import print_row
from benchmarks.goals import Goal
from benchmarks.gpu import WHOLE
from benchmarks.heads import CPU_CASES, GPU_CASES, row_name


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    row: dict[str, object] = json.loads(capsys.readouterr().out)
    return row


@pytest.fixture
def goal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_goal(name: str, **entry: object) -> None:
        bound = entry.get("at_least", entry.get("at_most"))
        found = Goal(float(str(bound)), "at_least" in entry, bool(entry.get("withdrawn")))
        monkeypatch.setattr(goals_module, "goals", lambda: {name: found})

    return set_goal


def test_the_ratio_says_how_many_times_less_ours_needs(
    capsys: pytest.CaptureFixture[str], goal: Callable[..., None]
) -> None:
    times = {"ours": [1.0, 2.0, 9.0], "baseline": [6.0, 5.0, 4.0]}
    goal("file/case | baseline", at_least=2.6)
    assert not print_row("file/case", "baseline", times)
    row = printed(capsys)
    assert (row["ratio"], row["goal"], row["passed"]) == (2.5, 2.6, False)
    assert row["spread"] == {"ours": 9.0, "baseline": 1.5}
    goal("file/case | baseline", at_least=2.4)
    assert print_row("file/case", "baseline", times)


def test_a_largest_ratio_is_ours_over_the_baselines(
    capsys: pytest.CaptureFixture[str], goal: Callable[..., None]
) -> None:
    times = {"ours": [1.0], "baseline": [4.0]}
    goal("file/case | baseline", at_most=0.3)
    assert print_row("file/case", "baseline", times, lower_is_better=True)
    assert printed(capsys)["ratio"] == 0.25
    goal("file/case | baseline", at_most=0.2)
    assert not print_row("file/case", "baseline", times, lower_is_better=True)


def test_a_wrong_result_is_never_fast_enough(
    capsys: pytest.CaptureFixture[str], goal: Callable[..., None]
) -> None:
    times = {"ours": [1.0], "baseline": [4.0]}
    goal("file/case | baseline", at_least=1.0)
    assert not print_row("file/case", "baseline", times, correct=False)
    assert printed(capsys)["passed"] is False


def cell(row: dict[str, object]) -> list[str]:
    return table.cells(row)[-3:]


def test_a_row_without_a_goal_says_so(
    capsys: pytest.CaptureFixture[str], goal: Callable[..., None]
) -> None:
    goal("another | row", at_least=1.0)
    assert print_row("file/case", "baseline", {"ours": [9.0], "baseline": [1.0]})
    row = printed(capsys)
    assert row["goal"] is None
    assert cell(row)[0] == "none"
    assert cell(row)[2] == "no goal"
    goal("file/case | baseline", at_least=1.0, withdrawn=True)
    assert cell(row)[2] == "no goal"
    goal("file/case | baseline", at_least=1.0)
    assert "no" in cell(row)[2]  # by today's goals, whatever the row said of itself
    assert "goal" not in cell(row)[2]


def test_the_page_has_a_line_for_every_benchmark_and_says_what_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    goal: Callable[..., None],
) -> None:  # fmt: skip
    goal("heads/one | loop", at_least=15.0)
    print_row("heads/one", "loop", {"ours": [1.0], "loop": [30.0]})
    row = {**printed(capsys), "commit": "abc", "date": "2026-01-02"}
    (tmp_path / "heads.jsonl").write_text(json.dumps(row), encoding="utf-8")
    monkeypatch.setattr(table, "ROWS", tmp_path)
    monkeypatch.setattr(table, "KEPT", tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    older = {**row, "benchmark": "fit/one", "cpu": "a processor", "load": "others"}
    for name in ("heads", "fit"):  # of heads there are newer rows
        (tmp_path / "kept" / f"{name}.jsonl").write_text(json.dumps(older), encoding="utf-8")
    lines = table.page().splitlines()
    told = "| fit/one | loop | 30 | none | ours 1.0, loop 1.0 | no goal "
    assert lines.count(f"{told}| abc 2026-01-02, a processor, busy |") == 1
    assert "| heads/one | loop | 30 | 15 | ours 1.0, loop 1.0 | yes | abc 2026-01-02 |" in lines
    for name in set(table.names()) - {"heads", "fit"}:
        assert f"| {name} | | not measured | | | | |" in lines


def test_a_goal_in_code_is_refused() -> None:
    with pytest.raises(TypeError, match=r"goals stand in goals\.yaml"):
        print_row("file/case", "baseline", {"ours": [1.0], "baseline": [1.0]}, goal=0.0)


def test_goals_of_the_whole_sizes_are_there_with_their_bounds() -> None:
    names = [
        *(f"gpu/{name} | limit" for name in WHOLE.trunks),
        f"gpu/{next(iter(WHOLE.trunks))} | DataLoader loop",
        "gpu/augmentation | training epoch",
        *(f"gpu/{WHOLE.heads.heads} heads | {side}" for side in ("lean loop", "limit")),
        "gpu/knn | limit",
        "gpu/kmeans | limit",
        f"gpu/{WHOLE.trials} trials | one at a time",
        "evaluation/neighbors | a search each",
        *(f"{row_name(c)} | {b}" for c in (*CPU_CASES, *GPU_CASES) for b in c.baselines),
    ]
    bounds = {name: goals_module.goals()[name].bound for name in names}
    assert bounds["evaluation/neighbors | a search each"] == 2.0
    assert bounds["gpu/augmentation | training epoch"] == 0.05
    assert bounds["gpu/8 trials | one at a time"] == 3.0
    assert bounds["heads/256 at D=64 C=10 | lean loop"] == 100
    assert goals_module.goals()["loader/rand_augment | torchvision PIL"].reached(1 / 6)
    assert not goals_module.goals()["loader/rand_augment | torchvision PIL"].reached(0.16668)


def test_every_goal_has_a_date_and_every_change_a_reason() -> None:
    entries = yaml.safe_load(goals_module.FILE.read_text(encoding="utf-8"))
    assert len(goals_module.goals()) == len(entries) > 30
    for name, entry in entries.items():
        assert name.partition("/")[0] in set(table.names()), name
        assert set(entry) <= {"at_least", "at_most", "since", "changes", "withdrawn"}
        assert isinstance(entry["since"], datetime.date)
        for change in (*entry.get("changes", ()), *filter(None, [entry.get("withdrawn")])):
            assert isinstance(change["date"], datetime.date)
            assert change["why"]


@pytest.mark.parametrize("key", ["baseline", "rival"])
def test_rows_of_earlier_versions_keep_their_baseline(key: str) -> None:
    row = {"benchmark": "heads/one", key: "loop", "ratio": 30.0, "goal": 15.0, "passed": True}
    assert table.cells(row)[:2] == ["heads/one", "loop"]


@pytest.mark.parametrize("name", table.names())
def test_a_benchmark_says_its_goal_and_how_it_is_run(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # in this process: starting another one for each file costs a minute and a half in all
    benchmark = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        benchmark.main()
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert "goal" in told.lower()
    assert f"benchmarks.{name}" in told


def test_an_unknown_benchmark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "benchmarks", "lader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no benchmark called lader" in done.stderr
