"""Leases: one owner at a time; the dead lose theirs, the living keep it."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from orchestrator.store.actor_leases import Desk, DeskLeases
from orchestrator.store.leases import FileLeases, Lease

HOLD = """
import sys, time
from pathlib import Path
from orchestrator.store.leases import FileLeases
lease = FileLeases(Path(sys.argv[1])).try_acquire("stage/key")
print("held" if lease else "refused", flush=True)
time.sleep(60)
"""


def hold(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_one_holds_it_and_the_next_gets_it_after_release(tmp_path: Path) -> None:
    one, two = FileLeases(tmp_path), FileLeases(tmp_path)
    lease = one.try_acquire("stage/key")
    assert lease is not None
    assert two.try_acquire("stage/key") is None
    other = two.try_acquire("stage/other")
    assert other is not None
    other.release()
    lease.release()
    again = two.try_acquire("stage/key")
    assert again is not None
    again.release()
    assert list(tmp_path.rglob("*.lease*")) == []


def ask_at_once(folder: Path, count: int) -> list[Lease]:
    """Return the leases that so many threads get, which ask for one at the same time."""
    got: list[Lease] = []
    barrier = threading.Barrier(count)

    def ask() -> None:
        barrier.wait()
        lease = FileLeases(folder).try_acquire("stage/key")
        if lease is not None:
            got.append(lease)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_of_many_threads_one_gets_it(tmp_path: Path) -> None:
    (lease,) = ask_at_once(tmp_path, 16)
    lease.release()


def test_a_killed_owner_loses_it_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path)
    leases = FileLeases(tmp_path)
    assert leases.try_acquire("stage/key") is None
    kill(process)
    lease = leases.try_acquire("stage/key")
    assert lease is not None
    lease.release()


def test_of_many_that_take_over_one_succeeds(tmp_path: Path) -> None:
    for _ in range(3):
        kill(hold(tmp_path))
        (lease,) = ask_at_once(tmp_path, 12)
        lease.release()


def elsewhere(folder: Path, name: str) -> Path:
    """Put down a lease of a process on another host, whose number means nothing here."""
    path = folder / f"{name}.lease"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"owner": "x", "host": "far", "machine": "far", "pid": 1, "started": "1"}
    path.write_text(json.dumps(document))
    return path


def test_a_silent_owner_on_another_host_loses_it_after_a_while(tmp_path: Path) -> None:
    elsewhere(tmp_path, "stage/key")
    leases = FileLeases(tmp_path, stale_seconds=0.2)
    start = time.monotonic()
    while (lease := leases.try_acquire("stage/key")) is None:
        time.sleep(0.02)
        assert time.monotonic() - start < 10
    assert time.monotonic() - start >= 0.2
    lease.release()


def test_staleness_needs_no_common_clock(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, "stage/key")
    os.utime(path, (0, 0))  # the other host's clock stands at 1970
    leases = FileLeases(tmp_path, stale_seconds=30.0)
    assert leases.try_acquire("stage/key") is None


def test_a_heartbeat_keeps_a_lease_beyond_the_stale_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = FileLeases(tmp_path, heartbeat_seconds=0.05)
    lease = owner.try_acquire("stage/key")
    assert lease is not None
    waiter = FileLeases(tmp_path, stale_seconds=0.5)
    monkeypatch.setattr("orchestrator.locking.processes.machine", lambda: "another machine")
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert waiter.try_acquire("stage/key") is None
        time.sleep(0.05)
    lease.release()


def test_a_lease_that_was_being_written_when_its_owner_died_is_taken_over(tmp_path: Path) -> None:
    path = elsewhere(tmp_path, "stage/key")
    path.write_text("")
    leases = FileLeases(tmp_path, stale_seconds=0.1)
    assert leases.try_acquire("stage/key") is None
    time.sleep(0.2)
    lease = leases.try_acquire("stage/key")
    assert lease is not None
    lease.release()


def test_a_late_release_does_not_free_the_next_owners_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = FileLeases(tmp_path, heartbeat_seconds=60).try_acquire("stage/key")
    assert slow is not None
    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.locking.processes.machine", lambda: "another machine")
        waiter = FileLeases(tmp_path, stale_seconds=0.05)
        while (lease := waiter.try_acquire("stage/key")) is None:
            time.sleep(0.02)
    slow.release()
    assert FileLeases(tmp_path).try_acquire("stage/key") is None
    lease.release()


def test_a_reused_process_number_is_not_the_owner(tmp_path: Path) -> None:
    lease = FileLeases(tmp_path, heartbeat_seconds=60).try_acquire("stage/key")
    assert lease is not None
    path = tmp_path / "stage/key.lease"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "owner": "dead", "started": "1"}))
    taken = FileLeases(tmp_path).try_acquire("stage/key")
    assert taken is not None
    taken.release()
    lease.release()


def test_a_failing_heartbeat_does_not_end_the_owner(caplog: pytest.LogCaptureFixture) -> None:
    beats = iter([OSError("share is away"), True, True])

    def beat() -> bool:
        result = next(beats, True)
        if isinstance(result, Exception):
            raise result
        return result

    lease = Lease(beat, lambda: None, seconds=0.02)
    time.sleep(0.2)
    lease.release()
    assert "a heartbeat failed" in caplog.text


def test_desk_gives_one_lease_per_name_and_drops_the_silent() -> None:
    desk = Desk()
    assert desk.acquire("a", "one", 30.0)
    assert not desk.acquire("a", "two", 30.0)
    assert desk.acquire("b", "two", 30.0)
    desk.free("a", "two")
    assert not desk.acquire("a", "two", 30.0), "only the holder frees"
    assert desk.beat("a", "one")
    assert desk.acquire("a", "two", 0.0), "silent for longer than allowed"
    assert not desk.beat("a", "one")
    desk.free("a", "two")
    assert desk.acquire("a", "three", 30.0)


def test_without_ray_everybody_may_compute() -> None:
    one = DeskLeases("mock://x").try_acquire("stage/key")
    two = DeskLeases("mock://x").try_acquire("stage/key")
    assert one is not None
    assert two is not None
    one.release()
    two.release()


@pytest.fixture(scope="module")
def cluster() -> "object":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_with_ray_one_actor_gives_them_out() -> None:
    one, two = DeskLeases("mock://x"), DeskLeases("mock://x")
    lease = one.try_acquire("stage/key")
    assert lease is not None
    assert two.try_acquire("stage/key") is None
    other = DeskLeases("mock://y").try_acquire("stage/key")
    assert other is not None
    other.release()
    lease.release()
    start = time.monotonic()
    while (again := two.try_acquire("stage/key")) is None:
        assert time.monotonic() - start < 10
    again.release()


def test_a_lease_that_the_full_disk_does_not_take_holds_nobody_up(tmp_path: Path) -> None:
    leases = FileLeases(tmp_path / "leases")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # a file can be made, not written
    try:
        with pytest.raises(OSError, match="File too large"):
            leases.try_acquire("stage/key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "leases" / "stage").iterdir()] == []
    lease = leases.try_acquire("stage/key")
    assert lease is not None
    lease.release()
