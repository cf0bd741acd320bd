"""The benchmark of the promise from scratch: its worlds, and what its rows say of them."""

import json
from pathlib import Path

import pytest

from benchmarks import promise_scratch
from benchmarks.promise import Kept, print_rows
from benchmarks.promise_scratch import make_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """35 classes of 520 files, of which none is opened."""
    for label in range(35):
        folder = tmp_path / "train" / f"class {label:02d}"
        folder.mkdir(parents=True)
        for number in range(520):
            (folder / f"{label:02d} {number:03d}.png").touch()
    return tmp_path / "train"


def test_a_world_has_20_classes_of_a_long_tail_and_10_others(data: Path, tmp_path: Path) -> None:
    others = make_folder(data, 3, tmp_path / "photos")
    sizes = sorted(len(list(path.iterdir())) for path in (tmp_path / "photos").iterdir())
    assert (len(sizes), sizes[0], sizes[-1]) == (20, 25, 500)
    assert sizes[1] == round(500 * 0.05 ** (18 / 19))
    assert [len(files) for files in others.values()] == [60] * 10
    known = {path.name for path in (tmp_path / "photos").iterdir()}
    assert not known & set(others)
    again = make_folder(data, 3, tmp_path / "again")
    assert list(again) == list(others)
    assert list(make_folder(data, 4, tmp_path / "else")) != list(others)


def test_rows_tell_how_often_the_intervals_held(capsys: pytest.CaptureFixture[str]) -> None:
    held = Kept(1.0, True, rehearsed=0.2, came=0.3, next_width=0.6, mean_width=0.2)
    missed = held._replace(inside=0.8, mean_inside=False)
    assert not print_rows([held] * 3 + [missed], 12.0, variant=", from scratch")
    following, mean = map(json.loads, capsys.readouterr().out.splitlines())
    assert following["benchmark"] == "promise/next class, from scratch"
    # (100, 100, 100, 80): mean 95, standard error 5, t of 3 degrees of freedom 3.182
    assert following["covered"] == 95.0
    assert following["interval"] == pytest.approx([95 - 15.9, 95 + 15.9], abs=0.1)
    assert (following["passed"], mean["passed"]) == (True, False)
    assert (mean["covered"], mean["ratio"]) == (75.0, 20.0)
    # Clopper-Pearson of 3 in 4
    assert mean["interval"] == pytest.approx([19.4, 99.4], abs=0.1)
    assert (mean["rehearsed"], mean["came"], mean["held_out_classes"]) == (20.0, 30.0, 40)


def test_a_world_that_is_stored_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def judge(data: Path, world: int) -> Kept:
        ran.append((data, world))
        return Kept(1.0, mean_inside=world < 2, rehearsed=0.2, came=0.3, next_width=1, mean_width=1)

    monkeypatch.setattr(promise_scratch, "judge", judge)
    monkeypatch.setattr(promise_scratch, "WORLDS", tmp_path / "worlds.jsonl")
    for worlds in (2, 3):
        words = ["promise_scratch", "--data", str(tmp_path), "--worlds", str(worlds)]
        monkeypatch.setattr("sys.argv", words)
        promise_scratch.main()
    assert ran == [(tmp_path / "train", world) for world in range(3)]
    mean = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (mean["worlds"], mean["covered"]) == (3, 66.7)
