"""An append-only file of what must reach the tracker: written first, sent later, sent again.

The driver writes it (`QueueWriter`), the process that sends reads it (`QueueReader`).

Not a database: on a share, where a sweep's folder may be, sqlite must not use its write-ahead log,
and an entry of a finished trial takes it 24 ms, here 0.2 ms (sshfs; on a local disk 77 us with that
log, here 60 us; medians). A trial has about ten entries, and the driver waits for each.
``persist-queue`` and ``diskcache`` stand on sqlite. A file can also be taken from a driver that
lost its sweep (`orchestrator.locking.sweep_lock`): the next driver's is a new one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.locking.sweep_lock import SweepLostError, check_sweep, write_file

logger = logging.getLogger(__name__)

ENTRIES, ACKNOWLEDGED, REFUSED = "entries.jsonl", "acknowledged", "refused.jsonl"
FILES = "files"  # folder of the files that wait, one folder per entry
SYNC_SECONDS = 2.0
READ_BYTES = 1 << 20


class Entry(NamedTuple):
    """One operation as it was spooled; ``end`` is the file position after its line."""

    end: int
    document: dict[str, Any]


class QueueWriter:
    """The writing end of a queue on disk: one JSON object per line, in order.

    An entry is in the operating system's hands when `append` returns, so killing the process loses
    nothing; it is on the disk at most two seconds later if somebody calls `sync`, so losing the
    host loses at most that. Appending never raises: when the disk is full, entries wait in memory
    for room.

    One process writes at a time, the sweep's driver (`orchestrator.locking.sweep_lock`). Opening
    makes a new file of the entries, so that entries of a driver that lost its sweep are not sent.

    Args:
        folder: Where ``entries.jsonl`` and ``acknowledged`` live.

    Raises:
        SweepLostError: Another driver has the sweep.

    Example:
        >>> import tempfile
        >>> spool = QueueWriter(Path(tempfile.mkdtemp()))
        >>> spool.append({"op": "a"}), spool.append({"op": "b"})
        (1, 2)
        >>> reader = QueueReader(spool.folder)
        >>> [first, second] = reader.pending()
        >>> reader.acknowledge(first.end)
        >>> [entry.document["op"] for entry in reader.pending()]
        ['b']
        >>> reader.close(), spool.close()
        (None, None)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        path = folder / ENTRIES
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a crash may leave half a line
        write_file(path, whole, sync=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND)
        check_sweep(path)  # after opening: a file opened under the lock is this driver's own
        self._waiting: list[bytes] = []
        self._warned = False
        self._dirty = False
        self._synced = time.monotonic()
        self._size = len(whole)
        self._acknowledged = _acknowledged(folder, self._size)
        self._appended = 0

    def append(self, document: dict[str, Any]) -> int:
        """Store one entry and return how many this process has stored."""
        line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._waiting.append(line)
            self._write_waiting()
            self._appended += 1
            return self._appended

    def acknowledged(self, end: int) -> None:
        """Take note that everything up to ``end`` has arrived."""
        with self._lock:
            self._acknowledged = max(self._acknowledged, end)

    def sync(self, *, force: bool = False) -> None:
        """Put entries on the disk, at most every two seconds."""
        with self._lock:
            self._write_waiting()
            due = self._dirty and time.monotonic() - self._synced >= SYNC_SECONDS
            if not (force or due):
                return
            self._dirty, self._synced = False, time.monotonic()
        # Outside the lock: an fsync may take long, and appending must not wait for it.
        try:
            os.fsync(self._file)
        except OSError as error:
            self._warn(error)

    @property
    def arrived(self) -> int:
        """The position up to which everything has arrived."""
        return self._acknowledged

    @property
    def empty(self) -> bool:
        """Whether everything has arrived."""
        with self._lock:
            return not self._waiting and self._acknowledged >= self._size

    def close(self) -> None:
        """Sync and release the spool; a spool whose entries all arrived starts anew.

        Nobody may read it any more.
        """
        self.sync(force=True)
        with self._lock:
            if not self._waiting and self._acknowledged >= self._size:
                # Truncated first: a position beyond the end is read as "start anew" by the next
                # process, whereas a reset position before truncation would send everything again.
                os.ftruncate(self._file, 0)
                with contextlib.suppress(SweepLostError):
                    check_sweep(self.folder / ENTRIES)
                    (self.folder / ACKNOWLEDGED).unlink(missing_ok=True)
            os.close(self._file)

    def _write_waiting(self) -> None:
        """Write lines in order; keep what does not fit. The lock is held."""
        while self._waiting:
            line = self._waiting[0]
            try:
                written = os.write(self._file, line)
                if written < len(line):
                    os.ftruncate(self._file, self._size)
                    raise OSError(28, "no space left for a whole entry")
            except OSError as error:
                self._warn(error)
                return
            self._size += written
            self._dirty = True
            del self._waiting[0]

    def _warn(self, error: OSError) -> None:
        """Say once that entries wait in memory."""
        if not self._warned:
            logger.warning("tracking spool %s: %s; entries wait in memory", self.folder, error)
            self._warned = True


class QueueReader:
    """The reading end: entries in order, acknowledged up to a position.

    An entry that was sent but not yet acknowledged is sent again after a crash: receivers must take
    the same entry twice without harm.

    Args:
        folder: A `QueueWriter`'s; one reader at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = os.open(folder / ENTRIES, os.O_RDONLY)
        self.position = _acknowledged(folder, os.fstat(self._file).st_size)
        self._kept, self._synced = self.position, time.monotonic()

    @property
    def replaced(self) -> bool:
        """Whether another driver has opened the spool since: nothing more is to be sent."""
        try:
            return not os.path.samestat(os.stat(self.folder / ENTRIES), os.fstat(self._file))
        except OSError:
            return True

    def pending(self) -> list[Entry]:
        """Return the oldest entries that are not acknowledged, a megabyte at most at a time."""
        start, size = self.position, os.fstat(self._file).st_size
        data = os.pread(self._file, READ_BYTES, start)
        while b"\n" not in data and len(data) < size - start:
            data += os.pread(self._file, READ_BYTES, start + len(data))
        entries, position = [], start
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):  # cut by the read, or not written to its end yet
                break
            position += len(line)
            entries.append(Entry(position, _parse(line)))
        return entries

    def acknowledge(self, end: int) -> None:
        """Mark everything up to ``end`` as arrived; it is not read again."""
        self.position = max(self.position, end)

    def sync(self, *, force: bool = False) -> None:
        """Keep the acknowledged position, at most every two seconds."""
        due = force or time.monotonic() - self._synced >= SYNC_SECONDS
        if not due or self._kept == self.position or self.replaced:
            return
        draft = self.folder / f"{ACKNOWLEDGED}.draft"
        try:
            draft.write_text(str(self.position), encoding="ascii")
            draft.replace(self.folder / ACKNOWLEDGED)
        finally:
            draft.unlink(missing_ok=True)
        self._kept, self._synced = self.position, time.monotonic()

    def set_aside(self, document: Mapping[str, Any]) -> None:
        """Keep an entry that the receiver will never take, in ``refused.jsonl``."""
        try:
            with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
                file.write(json.dumps(document) + "\n")
        except OSError as error:
            logger.warning("tracking: a refused entry was not kept: %s", error)

    def close(self) -> None:
        """Keep the position and release the file."""
        self.sync(force=True)
        os.close(self._file)


def _acknowledged(folder: Path, size: int) -> int:
    """Return the stored position, or 0 where there is none or it lies beyond the end."""
    try:
        position = int((folder / ACKNOWLEDGED).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return position if position <= size else 0


def _parse(line: bytes) -> dict[str, Any]:
    """Read one line; a damaged one becomes an entry that does nothing."""
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        logger.warning("tracking spool: unreadable entry skipped: %r", line[:80])
        return {"op": "unreadable"}
    return document
