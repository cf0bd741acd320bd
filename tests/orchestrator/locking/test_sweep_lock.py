"""One driver writes: races, kills, other machines, and drivers that sleep too long."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.locking import sweep_drivers
from orchestrator.locking.sweep_drivers import Driver, occupy, places, read
from orchestrator.locking.sweep_lock import (
    SweepLostError,
    check_sweep,
    is_driven,
    lock_sweep,
    write_file,
)
from orchestrator.records import SweepRecord
from orchestrator.search.journal import SweepJournal
from orchestrator.tracking.tracking_queue import QueueReader, QueueWriter
from tests.helpers import ROOT
from tests.helpers.factory import make_record

TAKEOVER = 2.0  # seconds, in place of thirty
PATIENCE = 60.0

# A driver: takes the sweep, opens what a sweep's driver opens, and does what it is told by lines.
DRIVER = """
import sys
from pathlib import Path
from orchestrator.locking import processes, sweep_drivers
folder, machine, takeover = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
sweep_drivers.TAKEOVER_SECONDS = takeover
if machine:
    processes.machine = lambda: machine
from orchestrator.records import SweepRecord
from orchestrator.search.journal import SweepJournal
from orchestrator.locking.sweep_lock import lock_sweep
from orchestrator.tracking.tracking_queue import QueueWriter
from trainables.errors import ConfigError

def answer(*words):
    print(*words, flush=True)

try:
    lock = lock_sweep(folder, lambda line: answer("waits", line))
except ConfigError as error:
    answer("refused", error)
    sys.exit(2)
journal, spool = SweepJournal(folder / "study.journal"), QueueWriter(folder / "spool")
answer("holds")
for line in sys.stdin:
    order, _, text = line.strip().partition(" ")
    try:
        if order == "blind":  # the check was passed just before it slept
            lock.check = lambda: None
        if order in ("journal", "all"):
            journal.append_logs([{"by": text}])
        if order in ("record", "all"):
            record = SweepRecord.load(folder)
            record.name = text
            record.save(folder)
        if order in ("spool", "all"):
            spool.append({"by": text})
        if order == "release":
            lock.release()
        answer("done")
    except ConfigError as error:
        answer("lost", error)
"""


class Process:
    """A driver in a process of its own."""

    def __init__(
        self,
        folder: Path,
        machine: str = "",
        prefix: tuple[str, ...] = (),
        takeover: float = TAKEOVER,
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", DRIVER, str(folder), machine, str(takeover)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def hear(self) -> str:
        """Return its next line, but for those that say what it waits for."""
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline().strip()).startswith("waits"):
            pass
        return line

    def tell(self, order: str) -> str:
        """Give an order and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        return self.hear()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Let it end by itself and return its status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a sweep that has a record."""
    folder = tmp_path / "runs" / "sweeps" / "monday"
    make_record(folder, trials=1).save(folder)
    return folder


@pytest.fixture
def start(folder: Path) -> Iterator[object]:
    """Start drivers of the sweep; what still runs at the end is killed."""
    started: list[Process] = []

    def one(*given, **named) -> Process:
        started.append(Process(folder, *given, **named))
        return started[-1]

    yield one
    for driver in started:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                driver.send(number)
        driver.process.wait(PATIENCE)
        for pipe in (driver.process.stdin, driver.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


# --- one of several ------------------------------------------------------------------------------


@pytest.mark.parametrize("machines", [("", ""), ("north", "south"), ("a", "b", "c", "d", "e")])
def test_of_those_that_start_together_one_wins(machines, start, folder: Path) -> None:
    drivers = [start(machine) for machine in machines]
    answers = [driver.hear() for driver in drivers]
    winners = [d for d, answer in zip(drivers, answers, strict=True) if answer == "holds"]
    assert len(winners) == 1, answers
    holder = read(places(folder)[-1])[0]
    assert holder is not None
    assert holder.process.pid == winners[0].process.pid
    refused = [answer for answer in answers if answer != "holds"]
    assert refused == [
        f"refused sweep 'monday' is being run by process {holder.process.pid} on "
        f"{holder.process.host} since {holder.since}; wait for it to end, or give a new --name"
    ] * (len(machines) - 1)
    losers = [driver for driver in drivers if driver is not winners[0]]
    assert [driver.process.wait(PATIENCE) for driver in losers] == [2] * len(losers)
    assert len(places(folder)) == 1


def test_of_many_threads_that_take_a_dead_drivers_sweep_one_gets_it(start, folder: Path) -> None:
    dead = start()
    assert dead.hear() == "holds"
    dead.send(signal.SIGKILL)
    dead.process.wait(PATIENCE)
    judged = places(folder)
    barrier, made = threading.Barrier(16), []

    def take() -> None:
        barrier.wait()
        made.append(occupy(folder, judged, Driver.of_this()))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [place for place in made if place is not None]
    assert winners == places(folder)
    assert len(winners) == 1


def test_who_comes_late_to_an_old_judgement_withdraws(folder: Path) -> None:
    first = occupy(folder, [], Driver.of_this())
    judged = places(folder)
    second = occupy(folder, judged, Driver.of_this())
    assert second is not None
    third = occupy(folder, places(folder), Driver.of_this())
    assert [place.name for place in places(folder)] == ["3"]
    assert first == judged[0]
    assert occupy(folder, judged, Driver.of_this()) is None  # it would be the second again
    assert occupy(folder, [], Driver.of_this()) is None
    assert places(folder) == [third]


def test_a_finished_driver_leaves_nothing_and_the_next_one_starts(start, folder: Path) -> None:
    one = start("north")
    assert one.hear() == "holds"
    assert one.tell("release") == "done"
    assert not (folder / "driver").exists()
    assert start("south").hear() == "holds"


def test_a_sweep_that_was_refused_before_it_wrote_leaves_no_folder(tmp_path: Path) -> None:
    with lock_sweep(tmp_path / "sweeps" / "new"):
        assert is_driven(tmp_path / "sweeps" / "new")
    assert list((tmp_path / "sweeps").iterdir()) == []


def test_the_parts_of_one_process_share_the_lock(folder: Path) -> None:
    outer, inner = lock_sweep(folder), lock_sweep(folder)
    assert inner is outer
    inner.release()
    assert is_driven(folder)
    outer.release()
    assert not is_driven(folder)


def sweep_command(folder: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "from orchestrator.locking import processes; processes.machine = lambda: 'laptop'\n"
        "from orchestrator.cli.main import main; import sys; main(sys.argv[1:])"
    )
    command = ("sweep", "--name", folder.name, "--storage", str(folder.parents[1]))
    return subprocess.run(
        [sys.executable, "-c", code, *command],
        check=False, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE,
    )  # fmt: skip


def test_the_command_says_in_one_line_who_runs_the_sweep(start, folder: Path) -> None:
    (folder / "sweep.json").unlink()
    driver = start("head")
    assert driver.hear() == "holds"
    done = sweep_command(folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        f"error: sweep 'monday' is being run by process {driver.process.pid} on "
    )
    assert done.stderr.count("\n") == 1


# --- machines ------------------------------------------------------------------------------------


def namespaces(name: str) -> tuple[str, ...]:
    """Return what runs a command under another host name and with process numbers of its own."""
    inside = f'hostname {name} && exec "$@"'
    return (
        "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
        "sh", "-c", inside, "sh",
    )  # fmt: skip


needs_namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*namespaces("x"), "true"], check=False, capture_output=True).returncode != 0,
    reason="needs root and unshare",
)


@needs_namespaces
@pytest.mark.parametrize("names", [("north", "south"), ("pod", "pod")])
def test_of_two_containers_on_one_folder_one_wins_and_a_kill_lets_the_other_in(
    names: tuple[str, str], start, folder: Path
) -> None:
    one = start(prefix=namespaces(names[0]))
    assert one.hear() == "holds"
    other = start(prefix=namespaces(names[1]))
    assert other.hear().startswith(
        f"refused sweep 'monday' is being run by process 1 on {names[0]} since"
    )
    one.send(signal.SIGKILL)
    one.process.wait(PATIENCE)
    began = time.monotonic()
    assert start(prefix=namespaces(names[1])).hear() == "holds"
    assert time.monotonic() - began >= TAKEOVER  # process 1 of the other container lives


def test_a_killed_driver_of_this_machine_is_succeeded_at_once(start, folder: Path) -> None:
    dead = start()
    assert dead.hear() == "holds"
    dead.send(signal.SIGKILL)
    dead.process.wait(PATIENCE)
    began = time.monotonic()
    with lock_sweep(folder):  # with thirty seconds
        assert time.monotonic() - began < 1.0


def test_a_killed_driver_of_another_machine_is_succeeded_after_the_stated_time(
    start, folder: Path
) -> None:
    dead = start("north")
    assert dead.hear() == "holds"
    dead.send(signal.SIGKILL)
    dead.process.wait(PATIENCE)
    os.utime(places(folder)[0] / "owner.json", (2e9, 2e9))  # its clock runs ahead by years
    began = time.monotonic()
    next_one = start("south")
    assert next_one.process.stdout is not None
    line = next_one.process.stdout.readline()
    assert line.startswith(f"waits sweep 'monday': process {dead.process.pid} on ")
    assert line.endswith(f"gives no sign of life; it is taken over after {TAKEOVER:g} s\n")
    assert next_one.hear() == "holds"
    assert TAKEOVER <= time.monotonic() - began < TAKEOVER + 10
    assert is_driven(folder)


def test_whose_machine_is_another_boot_or_namespace_is_not_called_dead(start, folder: Path) -> None:
    dead = start("north")
    assert dead.hear() == "holds"
    dead.send(signal.SIGKILL)
    dead.process.wait(PATIENCE)
    assert is_driven(folder)


def test_a_driver_killed_while_it_took_over_blocks_nobody(start, folder: Path) -> None:
    for _ in range(2):
        driver = start()
        assert driver.hear() == "holds"
        driver.send(signal.SIGKILL)
        driver.process.wait(PATIENCE)
        place = places(folder)[-1]
        kept = folder / "driver" / str(int(place.name) + 4)
        if len(places(folder)) == 1:
            shutil.copytree(place, kept)
    assert not is_driven(folder)
    began = time.monotonic()
    with lock_sweep(folder):
        assert time.monotonic() - began < 1.0
        assert len(places(folder)) == 1


def test_who_died_before_it_said_its_name_is_succeeded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_drivers, "TAKEOVER_SECONDS", 1.0)
    (folder / "driver" / "1").mkdir(parents=True)
    assert is_driven(folder)
    with lock_sweep(folder) as lock:
        assert lock.place.name == "2"


def test_time_in_which_the_waiter_slept_does_not_count(start, folder: Path) -> None:
    driver = start("north")
    assert driver.hear() == "holds"
    driver.send(signal.SIGSTOP)  # the host sleeps, with both on it
    waiter = start("south", takeover=4.0)
    assert waiter.process.stdout is not None
    assert waiter.process.stdout.readline().startswith("waits")
    waiter.send(signal.SIGSTOP)
    time.sleep(5.0)
    waiter.send(signal.SIGCONT)
    time.sleep(0.7)
    driver.send(signal.SIGCONT)
    assert waiter.hear().startswith("refused")
    assert driver.tell("journal a") == "done"


# --- who sleeps too long -------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    names = ("sweep.json", "study.journal", "spool/entries.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def taken_over(start, folder: Path) -> tuple[Process, Process]:
    """Return a driver that sleeps, and the one that has its sweep now; both have written."""
    sleeper = start("north")
    assert sleeper.hear() == "holds"
    assert sleeper.tell("all north") == "done"
    sleeper.send(signal.SIGSTOP)
    successor = start("south")
    assert successor.hear() == "holds"
    assert successor.tell("all south") == "done"
    return sleeper, successor


@pytest.mark.parametrize("order", ["journal", "record"])
def test_a_driver_that_wakes_stops_before_it_writes(order: str, start, folder: Path) -> None:
    sleeper, successor = taken_over(start, folder)
    before = contents(folder)
    assert [json.loads(line) for line in before["study.journal"].splitlines()] == [
        {"by": "north"},
        {"by": "south"},
    ]
    assert SweepRecord.load(folder).name == "south"
    holder = read(places(folder)[0])[0]
    sleeper.send(signal.SIGCONT)
    assert sleeper.tell(f"{order} north again") == (
        f"lost sweep 'monday' was taken over by {holder}: this driver (process "
        f"{sleeper.process.pid}) gave no sign of life for too long, and stops"
    )
    assert contents(folder) == before
    assert successor.tell("all south again") == "done"
    assert SweepRecord.load(folder).name == "south again"


def test_what_passed_the_check_before_it_slept_is_written_nowhere(start, folder: Path) -> None:
    sleeper, successor = taken_over(start, folder)
    before = contents(folder)
    sleeper.send(signal.SIGCONT)
    assert sleeper.tell("blind") == "done"
    assert sleeper.tell("journal late") == "done"
    assert sleeper.tell("spool late") == "done"
    assert sleeper.tell("record late").startswith("lost sweep 'monday' was taken over by")
    assert contents(folder) == before
    assert successor.tell("all again") == "done"
    assert [json.loads(line)["by"] for line in contents(folder)["study.journal"].splitlines()] == [
        "north",
        "south",
        "again",
    ]


def test_a_driver_that_wakes_and_writes_nothing_is_told_by_its_heartbeat(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()
    lock = lock_sweep(folder, on_loss=told.set)
    occupy(folder, places(folder), Driver.of_this())
    assert told.wait(10.0)
    with pytest.raises(SweepLostError, match="was taken over by process"):
        check_sweep(folder / "sweep.json")
    lock.release()
    assert len(places(folder)) == 1, "it leaves its successor's folder alone"
    shutil.rmtree(folder / "driver")


def test_whatever_ends_a_driver_that_lost_the_sweep_the_loss_is_the_reason(folder: Path) -> None:
    def lose() -> None:
        occupy(folder, places(folder), Driver.of_this())
        with pytest.raises(SweepLostError):
            write_file(folder / "rungs.json", b"{}")
        raise KeyboardInterrupt

    with pytest.raises(SweepLostError, match="taken over"), lock_sweep(folder):
        lose()
    assert not (folder / "rungs.json").exists()
    shutil.rmtree(folder / "driver")


def test_a_folder_of_the_same_number_is_not_the_same_drivers(folder: Path) -> None:
    lock = lock_sweep(folder)
    shutil.rmtree(lock.place)
    other = occupy(folder, [], Driver.of_this())
    assert other == lock.place
    lock._verified = 0.0
    with pytest.raises(SweepLostError):
        lock.check()
    lock.release()
    assert places(folder) == [other]
    shutil.rmtree(folder / "driver")


def test_a_driver_whose_folder_was_deleted_stops_and_does_not_make_it_again(folder: Path) -> None:
    record, lock = make_record(folder, trials=2), lock_sweep(folder)
    shutil.rmtree(folder)
    lock._verified = 0.0  # the last check is long ago
    with pytest.raises(SweepLostError, match="or its folder was deleted"):
        record.save(folder)
    lock.release()
    assert not folder.exists()


def test_a_share_that_is_away_for_a_moment_costs_a_line_and_not_the_sweep(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = os.utime, [OSError(5, "Input/output error")]

    def utime(*given: object) -> None:
        if failures:
            raise failures.pop()
        real(*given)  # type: ignore[arg-type]

    with lock_sweep(folder) as lock:
        monkeypatch.setattr(os, "utime", utime)
        end = time.monotonic() + 10
        while "no sign of life given" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        lock.check()
    assert "sweep 'monday': no sign of life given: [Errno 5]" in caplog.text


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(folder: Path) -> None:
    before = (folder / "sweep.json").read_bytes()
    (folder / "sweep.json.d").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_file(folder / "sweep.json.d", b"new")
    write_file(folder / "deep" / "er" / "file", b"content", sync=True)
    assert (folder / "deep" / "er" / "file").read_bytes() == b"content"
    assert (folder / "sweep.json").read_bytes() == before
    assert list(folder.rglob("*.draft")) == []


def test_files_beside_a_lost_sweep_can_be_written(folder: Path) -> None:
    lock = lock_sweep(folder)
    occupy(folder, places(folder), Driver.of_this())
    write_file(folder.with_name("monday2") / "sweep.json", b"{}")
    with pytest.raises(SweepLostError):
        write_file(folder / "spool" / "entries.jsonl", b"")
    lock.release()
    shutil.rmtree(folder / "driver")


def test_the_journal_and_the_queue_of_one_driver_are_new_files(folder: Path) -> None:
    for _ in range(2):
        with lock_sweep(folder):
            journal, spool = SweepJournal(folder / "study.journal"), QueueWriter(folder / "spool")
            journal.append_logs([{"n": 1}])
            spool.append({"n": 1})
            reader = QueueReader(folder / "spool")
            before = {p: p.stat().st_ino for p in folder.rglob("*") if p.suffix == ".journal"}
            SweepJournal(folder / "study.journal")
            assert all(p.stat().st_ino != number for p, number in before.items())
            assert not reader.replaced
            reader.close()
            spool.close()
