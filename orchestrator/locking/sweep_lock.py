"""The lock of a sweep: of all drivers, on all hosts that see its folder, one writes there.

A driver holds a sweep as long as its own folder exists, ``driver/7`` below the sweep's. Making it
(``mkdir``) is what one of several can do; the kernel's file locks do not reach from one client of
a share, or from one mount, to the next. The holder touches ``driver/7/owner.json`` every second.
Another driver takes over by making ``driver/8`` and deleting ``driver/7``

- at once, if the holder's process ran on this machine and has ended;
- otherwise after `TAKEOVER_SECONDS` without a sign of life, counted by its own clock.

So a holder can lose the lock while it sleeps, and must not write when it wakes. `check_sweep` tells
it. Between a check and a write it can sleep again, therefore what is written stands on the folder
too: `write_file` makes its draft there, which cannot replace anything once the folder is gone, and
the next driver opens the journal and the queue for MLflow as new files, so that what the last one
still appends goes nowhere.

``filelock.SoftFileLease`` has the same rules for heartbeats, and no means to keep a driver that
wakes from writing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from orchestrator.locking.sweep_drivers import (
    HEARTBEAT_SECONDS,
    OWNER,
    Driver,
    is_silent,
    occupy,
    places,
    read,
    remove,
)
from trainables.errors import ConfigError

logger = logging.getLogger(__name__)

VERIFY_SECONDS = 1.0  # a check that is younger than this needs no look at the file
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})


class SweepLostError(ConfigError):
    """This driver was silent for so long that another one took its sweep over."""


class SweepLock:
    """A held sweep; use `lock_sweep`.

    Args:
        place: This driver's folder, which exists.
        driver: What its ``owner.json`` says.
        on_loss: Called from the heartbeat's thread when another driver took the sweep over.
    """

    def __init__(self, place: Path, driver: Driver, on_loss: Callable[[], None]) -> None:
        self.place, self.driver = place, driver
        self.sweep = place.parents[1]
        self.uses = 1
        self._on_loss = on_loss
        self._lost = False
        self._verified = _clock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sweep lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Return if this driver still holds the sweep.

        Raises:
            SweepLostError: Another one does.
        """
        if self._lost or _clock() - self._verified > VERIFY_SECONDS:
            self._verify()

    def lost(self) -> SweepLostError:
        """Write nothing from now on; return the error that says who has the sweep."""
        self._lost = True
        others = [read(place)[0] for place in places(self.sweep) if place != self.place]
        by = f"by {others[-1]}" if others and others[-1] else "or its folder was deleted"
        return SweepLostError(
            f"sweep '{self.sweep.name}' was taken over {by}: this driver "
            f"(process {self.driver.process.pid}) gave no sign of life for too long, and stops"
        )

    def release(self) -> None:
        """Let the next driver in, when every user of the lock in this process has released it."""
        self.uses -= 1
        if self.uses:
            return
        self._done.set()
        self._thread.join()
        _held.pop(str(self.sweep), None)
        with contextlib.suppress(OSError, SweepLostError):
            self._verify()
            remove(self.place)
            self.place.parent.rmdir()
            self.sweep.rmdir()  # a sweep that was refused before it wrote anything

    def __enter__(self) -> SweepLock:
        """Hold the lock."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock; whatever ended the block, a lost lock is the reason."""
        self.release()
        if self._lost and not isinstance(error, SweepLostError):
            raise self.lost() from error

    def _verify(self) -> None:
        """Look whether the own folder is there; doing so is a sign of life."""
        if self._lost:
            raise self.lost()
        now = _clock()
        try:
            driver, _ = read(self.place)
            if driver is None or driver.token != self.driver.token:
                raise self.lost()
            os.utime(self.place / OWNER)
        except OSError as error:
            if error.errno in GONE:
                raise self.lost() from None
            raise
        self._verified = now

    def _beat(self) -> None:
        """Give signs of life until released: the body of the thread."""
        while not self._done.wait(HEARTBEAT_SECONDS):
            try:
                self._verify()
            except SweepLostError as loss:
                logger.info("%s", loss)
                self._on_loss()
                return
            except OSError as error:  # a share that is away for a moment
                logger.warning("sweep '%s': no sign of life given: %s", self.sweep.name, error)


_held: dict[str, SweepLock] = {}  # what this process holds or lost, by the sweep's folder


def lock_sweep(
    folder: Path,
    say: Callable[[str], None] = logger.info,
    on_loss: Callable[[], None] = lambda: None,
) -> SweepLock:
    """Make this process the sweep's only driver; wait for one that gives no sign of life.

    Args:
        folder: The sweep's; made if it is missing.
        say: Takes a line that says what is waited for.
        on_loss: Called from a thread, at most once, when another driver took the sweep over.

    Raises:
        ConfigError: Another process drives the sweep.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "monday"
        >>> with lock_sweep(folder):
        ...     is_driven(folder)
        True
        >>> is_driven(folder)
        False
    """
    folder = Path(os.path.abspath(folder))
    held = _held.get(str(folder))
    if held is not None:
        held.check()
        held.uses += 1
        return held
    driver = Driver.of_this()
    while True:
        judged = places(folder)  # more than one: a driver was killed while it took over
        if all(is_silent(place, say) for place in judged):
            place = occupy(folder, judged, driver)
            if place is not None:
                break
        time.sleep(random.uniform(0.01, 0.1))  # several that try at once must not stay in step
    lock = _held[str(folder)] = SweepLock(place, driver, on_loss)
    return lock


def is_driven(folder: Path) -> bool:
    """Say whether a process drives a sweep; one of another machine that was killed counts too."""
    drivers = [read(place)[0] for place in places(folder)]
    return any(driver is None or not driver.process.has_ended for driver in drivers)


def check_sweep(path: Path) -> None:
    """Return if this process may write in a sweep's folder: its lock was not taken over.

    Without a lock of this process everything may be written: a lock keeps out other drivers.

    Args:
        path: The folder, or a file in it.

    Raises:
        SweepLostError: Another driver has the sweep that the file belongs to.
    """
    lock = _lock_of(path)
    if lock is not None:
        lock.check()


def write_file(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file of a sweep's folder in one step: it has its old or its new content.

    Args:
        path: The file; its folder is made if it is missing.
        content: What it holds.
        sync: Wait until the content is on the disk.

    Raises:
        SweepLostError: Another driver has the sweep; nothing was written.
    """
    lock = _lock_of(path)
    if lock is None:
        draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    else:
        lock.check()
        draft = lock.place / f"{path.name}.draft"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if lock is not None and error.errno in GONE:
            raise lock.lost() from None
        raise


def interrupt() -> None:
    """End the main thread's work as Ctrl-C does: a driver that lost its sweep works for nobody."""
    os.kill(os.getpid(), signal.SIGINT)


def _lock_of(path: Path) -> SweepLock | None:
    """Return the lock under which this process writes a file."""
    text = f"{os.path.abspath(path)}/"
    return next((lock for folder, lock in _held.items() if text.startswith(f"{folder}/")), None)


def _clock() -> float:
    """Return seconds that go on while this host is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
