"""Single flight: of many that ask for a result, one holds its lease and computes; the rest wait.

A lease never guards correctness, only work: results are published in one step under the digest of
what they are made from, so two owners at once would waste time and nothing else. What must not have
two owners, a sweep's folder, has `orchestrator.locking.sweep_lock`.

``filelock.SoftFileLease`` (4.2) has the same rules for heartbeats and dead owners. It takes over
only where the file system can exchange two names at once, which NFS, SMB and sshfs refuse. Measured
between two sshfs mounts of one folder: of a killed worker that held a stage, the lease here went to
the next one after 0.01 s, ``filelock``'s was not given out within a minute, so the stage would wait
until somebody deletes a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from orchestrator.locking.processes import ProcessName

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0  # six heartbeats: a loaded host may miss a few


class Lease:
    """A held lease: a thread keeps it alive until `release`.

    Args:
        beat: Called every ``seconds``; returns False when the lease was lost.
        free: Gives the lease back.
        seconds: Distance of heartbeats.
    """

    def __init__(
        self, beat: Callable[[], bool], free: Callable[[], None], seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self._beat, self._free, self._seconds = beat, free, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(self._seconds):
            try:
                if not self._beat():
                    logger.warning("a lease was taken over: this process was silent for too long")
                    return
            except Exception:
                # a missed heartbeat is not worth a computation: a share or an actor may come back
                logger.warning("a heartbeat failed", exc_info=True)

    def release(self) -> None:
        """Stop the heartbeat and let the next one in."""
        self._done.set()
        self._thread.join()
        self._free()


class Leases(Protocol):
    """Gives out leases by name."""

    def try_acquire(self, name: str) -> Lease | None:
        """Return the lease, or ``None``: another one holds it."""
        ...


class _Seen(NamedTuple):
    """A lease as this process last saw it change, by its own clock."""

    version: tuple[str, int]
    since: float


class FileLeases:
    """Leases as files, for a folder of this host or a share.

    A lease whose owner is gone is taken over: at once if its process ran on this machine, and
    otherwise after its file stood still for `STALE_SECONDS`, measured by the waiter's own clock,
    so hosts need not agree on the time.

    Args:
        folder: Where the files lie.
        heartbeat_seconds: How often a holder touches its file.
        stale_seconds: For how long a file stands still before it is taken over.
    """

    def __init__(
        self,
        folder: Path,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.folder = folder
        self.heartbeat_seconds = heartbeat_seconds
        self.stale_seconds = stale_seconds
        self._seen: dict[str, _Seen] = {}

    def try_acquire(self, name: str) -> Lease | None:
        """Return the lease, or ``None``: a living owner holds it."""
        path = self.folder / f"{name}.lease"
        owner = uuid.uuid4().hex
        if not self._create(path, owner) and not self._take_over(path, owner):
            return None
        self._seen.pop(name, None)
        return Lease(
            lambda: self._touch(path, owner),
            lambda: self._free(path, owner),
            self.heartbeat_seconds,
        )

    def _create(self, path: Path, owner: str) -> bool:
        """Create the file if there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as file:
                file.write(_document(owner))
        except OSError:  # the disk is full: a lease without an owner would hold everybody up
            path.unlink(missing_ok=True)
            raise
        return True

    def _take_over(self, path: Path, owner: str) -> bool:
        """Replace a dead owner's file; of many that try, one succeeds."""
        if not self._is_dead(path):
            return False
        with _guard(path):
            # another waiter may have been first: then the file is new, and not dead
            if not self._is_dead(path):
                return False
            draft = path.with_name(f"{path.name}.{owner}")
            try:
                draft.write_text(_document(owner))
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        logger.warning("took over %s: its owner is gone", path.stem)
        return True

    def _is_dead(self, path: Path) -> bool:
        """Say whether a lease's owner is gone: its process, or its heartbeat."""
        try:
            text, stamp = path.read_text(), path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        document = _parse(text)
        if document and ProcessName.model_validate(document).has_ended:
            return True
        seen, now = self._seen.get(path.stem), time.monotonic()
        if seen is None or seen.version != (text, stamp):
            self._seen[path.stem] = _Seen((text, stamp), now)
            return False
        return now - seen.since > self.stale_seconds

    def _touch(self, path: Path, owner: str) -> bool:
        if not _owns(path, owner):
            return False
        os.utime(path)
        return True

    def _free(self, path: Path, owner: str) -> None:
        with _guard(path):
            if _owns(path, owner):
                path.unlink()


@contextlib.contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Serialise a change of owner; the kernel frees the lock of a process that dies."""
    with (path.parent / ".guard").open("a") as file:
        # a share without locks: two may take over at once, which wastes work and nothing else
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _document(owner: str) -> str:
    return json.dumps({"owner": owner, **ProcessName.of_this().model_dump()})


def _parse(text: str) -> dict[str, Any] | None:
    """Return a lease's content; ``None`` while its owner is writing it (or died in doing so)."""
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return document


def _owns(path: Path, owner: str) -> bool:
    try:
        document = _parse(path.read_text())
    except FileNotFoundError:
        return False
    return document is not None and document["owner"] == owner
