"""The folders by which drivers of a sweep know of each other, on any file system that they share.

``driver/7/owner.json`` below a sweep's folder says who drives it; its time is the last sign of
life. `sweep_lock` tells what that is for.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.locking.processes import ProcessName
from trainables.errors import ConfigError

HEARTBEAT_SECONDS = 1.0
TAKEOVER_SECONDS = 30.0
POLL_SECONDS = 0.5
FOLDER, OWNER = "driver", "owner.json"
REMOVALS = 20


class Driver(BaseModel):
    """What ``owner.json`` says of a sweep's driver."""

    model_config = ConfigDict(frozen=True)

    token: str
    since: str  # ISO 8601, UTC
    process: ProcessName

    @classmethod
    def of_this(cls) -> Driver:
        """Return this process as a driver that starts now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(token=uuid.uuid4().hex, since=now, process=ProcessName.of_this())

    def __str__(self) -> str:
        """Name the process for people."""
        return f"process {self.process.pid} on {self.process.host} since {self.since}"


def places(sweep: Path) -> list[Path]:
    """Return the folders of a sweep's drivers, which may have ended, the last one last."""
    try:
        numbers = sorted(int(name) for name in os.listdir(sweep / FOLDER) if name.isdigit())
    except FileNotFoundError:
        return []
    return [sweep / FOLDER / str(number) for number in numbers]


def read(place: Path) -> tuple[Driver | None, int]:
    """Return a driver and the time of its last sign of life; ``None``: it has not said who it is.

    The file is opened for both: a client of a share asks the server again only then.
    """
    try:
        with (place / OWNER).open("rb") as file:
            return Driver.model_validate_json(file.read()), os.fstat(file.fileno()).st_mtime_ns
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None, 0


def is_silent(place: Path, say: Callable[[str], None]) -> bool:
    """Wait for a driver's sign of life; ``True``: there is none, ``False``: it let the sweep go.

    Args:
        place: Its folder.
        say: Takes a line that says what is waited for.

    Raises:
        ConfigError: It lives.
    """
    first, silent, last = read(place), 0.0, time.monotonic()
    name = place.parents[1].name
    while True:
        driver, stamp = read(place)
        if not place.exists():
            return False
        if driver is not None and driver.process.has_ended:
            return True
        if driver is not None and (driver, stamp) != first:
            raise ConfigError(
                f"sweep '{name}' is being run by {driver}; wait for it to end, or give a new --name"
            )
        if silent >= TAKEOVER_SECONDS:
            return True
        if silent < 2 * HEARTBEAT_SECONDS <= silent + POLL_SECONDS:
            say(
                f"sweep '{name}': {driver or 'its driver'} gives no sign of life; "
                f"it is taken over after {TAKEOVER_SECONDS:g} s"
            )
        time.sleep(POLL_SECONDS)
        # a process that slept, or a share that hung, has not watched all that time
        now = time.monotonic()
        silent, last = silent + min(now - last, 2 * POLL_SECONDS), now


def occupy(sweep: Path, judged: Sequence[Path], driver: Driver) -> Path | None:
    """Make a driver's folder and delete those before; ``None``: another driver was first.

    Of several that judge the same folders one makes the next. A driver that comes late, when others
    have come and gone since it judged, finds a folder that it did not judge, and withdraws.

    Args:
        sweep: The sweep's folder; made if it is missing.
        judged: The folders of drivers that are silent, as `places` gave them.
        driver: The one that takes the sweep over.
    """
    place = sweep / FOLDER / str(int(judged[-1].name) + 1 if judged else 1)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir()
    except OSError as error:  # sshfs has one error for everything, so what exists is asked for
        if place.exists() or isinstance(error, FileNotFoundError):
            return None
        raise
    try:
        (place / OWNER).write_text(driver.model_dump_json(), encoding="utf-8")
        if set(places(sweep)) - {place, *judged}:
            remove(place)
            return None
        for old in judged:
            remove(old)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


def remove(place: Path) -> None:
    """Delete a driver's folder; when this returns, nothing can be written through it any more."""
    for _ in range(REMOVALS):  # again, if its driver makes a draft meanwhile
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return
    shutil.rmtree(place)
