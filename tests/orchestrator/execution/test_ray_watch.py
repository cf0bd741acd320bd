"""A process of Ray that ends under a driver interrupts it, with the reason in one line.

The watched process is a real child whose name is that of Ray's: which program it runs is all one.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.execution.ray_watch import POLL_SECONDS, RayWatch


@pytest.fixture
def child(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child that sleeps, under the name that the test asks for."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    named = shutil.copy(sleep, tmp_path / request.param)
    with subprocess.Popen([named, "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, whatever another test has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _collects() -> Iterator[None]:
    """The watch turns the collector off, because the driver is about to end."""
    import gc

    yield
    gc.enable()


@pytest.mark.parametrize("child", ["raylet", "gcs_server"], indirect=True)
def test_a_process_of_ray_that_ends_interrupts_the_driver(
    child: subprocess.Popen[bytes], interruptible: None
) -> None:
    import gc

    def work() -> None:
        with watch:
            assert not watch.lost()
            child.kill()
            time.sleep(20.0)

    watch = RayWatch()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert watch.lost()
    name = Path(str(child.args[0])).name  # type: ignore[index]
    assert watch.fault == f"Ray ended while the sweep ran (its process {name})"
    assert not gc.isenabled(), "what Tune's objects do when they are collected waits for Ray"


@pytest.mark.parametrize("child", ["another"], indirect=True)
def test_another_process_may_end(child: subprocess.Popen[bytes], interruptible: None) -> None:
    with RayWatch() as watch:
        child.kill()
        child.wait()
        time.sleep(2 * POLL_SECONDS)
    assert (watch.fault, watch.lost()) == (None, False)


@pytest.mark.parametrize("child", ["raylet"], indirect=True)
def test_after_the_watch_ray_may_end(child: subprocess.Popen[bytes], interruptible: None) -> None:
    with RayWatch() as watch:
        pass
    child.kill()
    child.wait()
    time.sleep(2 * POLL_SECONDS)
    assert not watch.lost()
