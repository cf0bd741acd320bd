"""A sweep's driver and its lock: what is read and done only while the sweep is this driver's."""

import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.locking import sweep_lock
from orchestrator.locking.sweep_drivers import Driver, occupy, places
from orchestrator.locking.sweep_lock import SweepLostError, lock_sweep
from orchestrator.options import SweepOptions
from orchestrator.records import PromotionRecord
from orchestrator.trials import sweep
from orchestrator.trials.failures import Failures
from orchestrator.trials.sweep_job import SweepJob
from orchestrator.trials.sweep_start import folder_of, open_record
from tests.helpers.factory import make_record
from tests.helpers.photos import photo_folder
from tests.helpers.registered import name_champion
from tests.helpers.versions import photos as flower_photos
from tests.helpers.versions import version
from trainables.errors import ConfigError
from trainables.experiment import Experiment, load_experiment
from trainables.inference.outcomes import OUTCOMES_FILE, save_outcomes


def test_the_record_is_read_when_the_driver_before_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SweepOptions(name="monday", storage=str(tmp_path), trials=3, promote=False)
    real, folder = sweep_lock.lock_sweep, folder_of(options, "monday")
    record = open_record(options, load_experiment(options.experiment, ()))
    finished = make_record(tmp_path / "other", trials=3)

    def lock_after_the_other_has_finished(*given: object) -> sweep_lock.SweepLock:
        names = ("trials", "finalists", "objectives")
        whole = {name: getattr(finished, name) for name in names}
        record.model_copy(update=whole).save(folder)
        for name in ("study.json", "study.journal"):  # of a complete sweep they are not opened
            (folder / name).write_text("{}\n", encoding="utf-8")
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "lock_sweep", lock_after_the_other_has_finished)
    count = len(finished.finalists)
    options = options.model_copy(
        update={"finalists": count, "seeds": len(finished.finalists[0].seeds)}
    )
    found = sweep.run_sweep(options, Console(quiet=True))
    assert [trial.trial_id for trial in found.trials] == [t.trial_id for t in finished.trials]
    assert not (folder / "driver").exists()


def test_a_lost_lock_interrupts_the_main_thread() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever Ray has set here
    try:
        _wait_for_the_interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  (the signal comes a moment later)
        threading.Thread(target=sweep_lock.interrupt).start()
        threading.Event().wait(10.0)


@pytest.mark.parametrize("step", ["run_finalists", "serve", "promote", "discard_states"])
def test_nothing_outside_the_folder_is_done_for_a_lost_sweep(step: str, tmp_path: Path) -> None:
    job = object.__new__(SweepJob)
    job.folder = tmp_path / "sweeps" / "monday"
    lock = lock_sweep(job.folder)
    occupy(job.folder, places(job.folder), Driver.of_this())
    lock._verified = 0.0
    with pytest.raises(SweepLostError, match="sweep 'monday' was taken over"):
        getattr(job, step)()
    lock.release()
    shutil.rmtree(job.folder)


def test_a_refused_sweep_leaves_no_folder(tmp_path: Path) -> None:
    options = SweepOptions(storage=str(tmp_path), study="no-such-study")
    with pytest.raises(ValueError, match="no-such-study"):
        sweep.run_sweep(options, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "asked", "model"),
    [
        ("folder:flowers", {}, "flowers"),
        ("table:lists/birds.csv", {}, "birds"),
        ("folder:flowers", {"model": "mine"}, "mine"),
        ("folder:---", {"promote": False}, ""),  # nothing is registered
        ("digits", {}, "longtail"),
    ],
)
def test_a_model_is_named_before_anything_runs(
    source: str,
    asked: dict[str, Any],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "_check_early", lambda *_: None)
    monkeypatch.setattr(sweep, "_run_locked", lambda options, *_: options)
    given = SweepOptions(storage=str(tmp_path), sets=(f"data.source={source}",), **asked)
    found: Any = sweep.run_sweep(given, Console(quiet=True))
    assert found.model == model


def test_no_folder_of_this_machine_keeps_no_ledger() -> None:
    data = Experiment().data
    found = sweep._written_parts(SweepOptions(storage="s3://bucket/runs", model="cats"), data)
    assert (found.laboratory, found.served) == (data, "")
    assert found.lines == [
        "images that are added later may move others: no ledger of parts is kept in s3://bucket/runs"
    ]


def test_what_was_decided_early_is_what_the_sweep_computes_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats = photo_folder(tmp_path / "cats", {"lynx": 30, "ocelot": 30, "serval": 12, "margay": 12})
    options = SweepOptions(storage=str(tmp_path / "runs"), model="cats", name="one")
    sets = [
        f"data.source=folder:{cats}", f"data.root={tmp_path}", "data.image_size=8",
        "data.validation_per_class=4", "data.novel_classes=2", "rebalance.method=none",
        "score.threshold={false_alarm: {level: 0.5}}",
    ]  # fmt: skip
    base = load_experiment(None, sets)
    console = Console(record=True, width=200)
    laboratory, served = sweep._check_early(options, base, open_record(options, base), console)
    tables = {name: Path(s.removeprefix("table:")) for name, s in
              (("served", served), ("laboratory", laboratory.data.source))}  # fmt: skip
    assert all(file.is_relative_to(tmp_path / "runs/models/cats/parts") for file in tables.values())
    counts = {name: file.read_text().count(",test\n") for name, file in tables.items()}
    assert counts["laboratory"] == counts["served"] + 4  # 2 of each class under 25 images
    said = console.export_text().replace("\n", "")
    assert f"{counts['laboratory']} in test" in said
    assert f"folder:{cats}: 4 classes" in said
    assert laboratory.data.model_copy(update={"source": base.data.source}) == base.data
    made: list[Any] = []

    class Job:
        def __init__(self, *given: Any) -> None:
            made.extend(given)
            raise KeyError

    monkeypatch.setattr("orchestrator.trials.sweep_job.SweepJob", Job)
    monkeypatch.setattr(sweep, "_start_ray", lambda *_: None)
    with pytest.raises(KeyError):
        sweep._run_locked(options, base, console, (laboratory, served))
    assert made[1] == laboratory
    assert made[2].served_source == served
    assert made[2].experiment["data"]["source"] == f"folder:{cats}"  # the user's words


def test_images_of_which_the_champion_knows_no_class_are_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sweep, "_run_locked", lambda *_: pytest.fail("it ran"))
    (tmp_path / "version").mkdir()
    name_champion(tmp_path / "runs", "cats", tmp_path / "version")
    flowers = version(flower_photos(("daisy", "rose")), lambda photo: photo.label)
    save_outcomes(flowers, tmp_path / "version" / OUTCOMES_FILE)
    cats = photo_folder(tmp_path / "cats", {"lynx": 30, "ocelot": 30, "serval": 12, "margay": 12})
    sets = (
        f"data.source=folder:{cats}", f"data.root={tmp_path}", "data.image_size=8",
        "data.validation_per_class=4", "data.novel_classes=2",
    )  # fmt: skip
    options = SweepOptions(storage=str(tmp_path / "runs"), sets=sets)
    with pytest.raises(ConfigError, match="'cats' is the name of a model of other classes"):
        sweep.run_sweep(options, Console(quiet=True))


def test_the_parts_that_a_ledger_lost_come_back_from_the_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cats = photo_folder(tmp_path / "cats", {"lynx": 30, "ocelot": 30})
    data = load_experiment(None, [f"data.source=folder:{cats}", f"data.root={tmp_path}"]).data
    options = SweepOptions(storage=str(tmp_path / "runs"), model="cats")
    first = sweep._written_parts(options, data)
    ledger = tmp_path / "runs/models/cats/splits.jsonl"
    moved = ledger.read_text().replace('"test"', '"x"').replace('"train"', '"test"')
    (tmp_path / "version").mkdir()
    (tmp_path / "version/splits.jsonl").write_text(moved.replace('"x"', '"train"'))
    name_champion(tmp_path / "runs", "cats", tmp_path / "version")
    assert sweep._written_parts(options, data).lines == first.lines  # nothing is missing
    ledger.unlink()
    found = sweep._written_parts(options, data)
    assert found.lines[0] == f"parts: 60 images put back into {ledger} as version 1 has them"
    turned = {"train": "test", "test": "train"}
    assert [p.part for p in found.photos] == [turned[p.part] for p in first.photos]


def test_a_folder_that_cannot_name_a_model_is_refused_first(tmp_path: Path) -> None:
    options = SweepOptions(storage=str(tmp_path), sets=("data.source=folder:---",))
    with pytest.raises(ConfigError, match="its name can't name a model"):
        sweep.run_sweep(options, Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "status", "steps"),
    [
        ("", "FINISHED", []),
        ("promote", "FAILED", ["promotion"]),
        ("run_finalists", "FAILED", ["finalist"]),
        ("serve", "FAILED", ["service"]),
    ],
)
def test_a_step_that_fails_is_recorded_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, status: str, steps: list[str]
) -> None:
    job, ran = object.__new__(SweepJob), []
    job.record = make_record(tmp_path, trials=3)
    job.options, job.done = SweepOptions(num_seeds=9), True
    job.objectives, finalists = job.record.objectives, job.record.finalists
    job.failures = Failures(job.record, lambda line: None)
    job.record.finalists = []

    def step(name: str) -> None:
        ran.append(name)
        if name == broken:
            raise RuntimeError("no answer")
        if name == "run_finalists":
            job.record.finalists = finalists

    order = ["search", "run_finalists", "serve", "promote", "discard_states"]
    for name in order:
        monkeypatch.setattr(job, name, partial(step, name))
    job.run()
    # what could not be served is not registered
    assert ran == [name for name in order if (broken, name) != ("serve", "promote")]
    assert (job.status, [f.step for f in job.record.failures]) == (status, steps)
    assert all(f.error == "RuntimeError: no answer" for f in job.record.failures)


def test_a_complete_sweep_says_how_its_version_is_judged_by_other_gates(tmp_path: Path) -> None:
    refused = PromotionRecord(model="birds", version="4", promoted=False, gates=[])
    record = make_record(tmp_path, trials=3).model_copy(update={"promotion": refused})
    options = SweepOptions(name="monday", storage="my runs", gates=("few.allowed_regression=2",))
    (line,) = sweep.judged_with(record, options)
    assert (
        "orchestrator promote version 4 --gate few.allowed_regression=2 --storage 'my runs' "
        "--model birds" in line
    )
    assert sweep.judged_with(record, options.model_copy(update={"gates": ()})) == []
    never = record.model_copy(update={"promotion": None})
    assert sweep.judged_with(never, options) == []
