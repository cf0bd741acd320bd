"""Damaged and lost files of a sweep: one line each, and the other sweeps are listed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from orchestrator.cli.main import main
from orchestrator.options import SweepOptions
from orchestrator.records import Objective, SweepRecord, TrialRecord
from orchestrator.search.schedulers import make_scheduler
from orchestrator.search.searcher import StudySearcher
from orchestrator.search.sweep_study import superseded
from orchestrator.tracking.tracker import Tracker
from orchestrator.trials.recovery import recover
from orchestrator.trials.sweep_start import open_record
from tests.helpers.factory import make_record
from trainables.errors import ConfigError
from trainables.experiment import Experiment

ACCURACY = Objective(metric="evaluate/accuracy", mode="max")
TRIALS = 4


def studied(folder: Path, count: int = TRIALS, **more: Any) -> StudySearcher:
    return StudySearcher(
        folder=folder, space="full", base=Experiment(), objectives=[ACCURACY], num_trials=count,
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four trials that ended, as its driver left it."""
    folder = tmp_path_factory.mktemp("whole") / "monday"
    searcher = studied(folder)
    record = SweepRecord(
        name="monday", space="full", started="2026-01-02T03:04:05+00:00", environment={},
        experiment=Experiment().model_dump(mode="json"), objectives=[ACCURACY],
    )  # fmt: skip
    for number in range(TRIALS):
        found = searcher.suggest(f"ray-{number}")
        assert isinstance(found, dict)
        metrics = {ACCURACY.metric: number / 10}
        searcher.on_trial_complete(f"ray-{number}", {**metrics, "completed": 1.0})
        record.trials.append(
            TrialRecord(trial_id=f"trial-{number:04d}", number=number, state="COMPLETE",
                        params=found["params"], metrics=metrics)
        )  # fmt: skip
    searcher.close()
    record.save(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "sweeps" / "monday"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def list_instead(path: Path) -> None:
    path.write_text("[1, 2]\n")


def unknown_key(path: Path) -> None:
    path.write_text(path.read_text().replace("{", '{"of_tomorrow": 1,', 1))


def lost(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def damaged_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b'{"op_code": 4, "wor\x00\xff\n'
    path.write_bytes(b"".join(lines))


DAMAGES = [
    *(("sweep.json", how) for how in (cut, binary, empty, list_instead, unknown_key, a_folder)),
    *(("study.json", how) for how in (lost, a_folder)),
    *(("study.journal", how) for how in (binary, empty, lost, a_folder, damaged_line)),
]


def goes_on(folder: Path) -> SweepRecord:
    options = SweepOptions(name="monday", storage=str(folder.parents[1]), trials=TRIALS + 1)
    return open_record(options, Experiment())


def test_a_whole_sweep_goes_on(folder: Path) -> None:
    assert [trial.number for trial in goes_on(folder).trials] == list(range(TRIALS))


@pytest.mark.parametrize(
    ("name", "damage"), DAMAGES, ids=[f"{name} {how.__name__}" for name, how in DAMAGES]
)
def test_a_damaged_or_lost_file_is_one_line_before_anything_starts(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        goes_on(folder)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", [cut, binary, empty, list_instead])
def test_a_damaged_manifest_is_one_line(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "study.json")
    with pytest.raises(ConfigError, match=r"study\.json is damaged") as caught:
        studied(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", [b"{}\n", b'{"op_code": 4}\n', b'{"op_code": "new"}\n'])
def test_operations_that_optuna_cannot_replay_are_one_line(folder: Path, line: bytes) -> None:
    journal = folder / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = line
    journal.write_bytes(b"".join(lines))
    searcher = studied(folder)
    with pytest.raises(ConfigError, match=r"study\.journal is damaged, Optuna reads: ") as caught:
        _ = searcher.study
    searcher._store.close()
    assert "\n" not in str(caught.value)


def test_damaged_rungs_are_one_line(folder: Path) -> None:
    (folder / "rungs.json").write_bytes(b'{"metric": "x"')
    scheduler = make_scheduler("asha", metric="x", max_epochs=4, folder=folder)
    with pytest.raises(ConfigError, match=r"rungs\.json is damaged"):
        _ = scheduler.rungs


@pytest.mark.parametrize(
    "name", ["stages", "stages/classify", "leases", "scratch", "sweeps/monday/spool",
             "sweeps/monday/models", "sweeps/monday/tune", "sweeps/monday"],
)  # fmt: skip
def test_a_file_where_a_folder_belongs_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("no folder")
    options = SweepOptions(name="monday", storage=str(tmp_path))
    with pytest.raises(ConfigError, match="is not a folder; move it away") as caught:
        open_record(options, Experiment())
    assert str(tmp_path / name) in str(caught.value)


# --- the end of the journal is lost -------------------------------------------------------------


def recovered(folder: Path) -> tuple[SweepRecord, StudySearcher]:
    record = goes_on(folder)
    searcher = studied(folder, TRIALS)
    searcher.known = record.trials
    # nobody listens at port 9: what is tracked stays in the spool
    tracker = Tracker.open("http://127.0.0.1:9", folder, "s", folder / "spool")
    recover(record, searcher, Experiment(), storage=str(folder), tracker=tracker, folder=folder)
    tracker.close(timeout=0.1)
    return record, searcher


def test_a_torn_last_line_loses_no_trial_and_counts_none_twice(folder: Path) -> None:
    journal = folder / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-5])  # the end of the last trial
    record, searcher = recovered(folder)
    trials = searcher.study.get_trials(deepcopy=False)
    assert [t.state for t in trials] == [TrialState.COMPLETE] * TRIALS
    assert trials[-1].values == [0.3]
    assert searcher.remaining == 0
    assert [t.number for t in record.trials] == list(range(TRIALS))
    searcher.close()


def test_trials_that_the_journal_lost_whole_are_tried_again(folder: Path) -> None:
    journal = folder / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    begun = [n for n, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    journal.write_bytes(b"".join(lines[: begun[2]]))  # the third trial was never begun
    record, searcher = recovered(folder)
    assert [t.number for t in record.trials] == [0, 1]
    assert searcher.remaining == 2
    assert superseded(searcher.study.get_trials(deepcopy=False)) == set()
    searcher.close()


# --- the report of the other sweeps -------------------------------------------------------------


@pytest.mark.parametrize("damage", [cut, binary, unknown_key])
def test_reports_of_the_other_sweeps_go_on(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tuesday", "friday"):
        record = make_record(tmp_path / "sweeps" / name, trials=2)
        record.model_copy(update={"name": name}).save(tmp_path / "sweeps" / name)
    path = tmp_path / "sweeps" / "friday" / "sweep.json"
    damage(path)
    with pytest.raises(SystemExit) as status:
        main(["report", "--storage", str(tmp_path)])
    shown = capsys.readouterr()
    assert status.value.code == 0
    assert "tuesday" in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith(f"error: {path} is damaged")
    with pytest.raises(SystemExit) as status:
        main(["report", "tuesday", "--storage", str(tmp_path)])
    assert status.value.code == 0
    assert "report.html" in capsys.readouterr().out
    with pytest.raises(SystemExit) as status:
        main(["report", "friday", "--storage", str(tmp_path)])
    assert status.value.code == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_damaged_evaluation_leaves_the_page_without_its_figures(tmp_path: Path) -> None:
    from orchestrator.report.page import write_report

    record = make_record(tmp_path, trials=12)
    arrays = record.finalists[0].arrays
    assert arrays is not None
    for damage in (cut, binary, empty):
        damage(tmp_path / arrays / "tensors.safetensors")
        assert "</html>" in write_report(record, tmp_path).read_text(encoding="utf-8")
