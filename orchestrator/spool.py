"""An append-only file of what must reach the tracker: written first, sent later, sent again.

The driver writes it (`Spool`), the process that sends reads it (`Outbox`).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

ENTRIES, ACKNOWLEDGED, REFUSED = "entries.jsonl", "acknowledged", "refused.jsonl"
SYNC_SECONDS = 2.0
READ_BYTES = 1 << 20


class Entry(NamedTuple):
    """One operation as it was spooled; ``end`` is the file position after its line."""

    end: int
    document: dict[str, Any]


class Spool:
    """The writing end of a queue on disk: one JSON object per line, in order.

    An entry is in the operating system's hands when `append` returns, so killing the process loses
    nothing; it is on the disk at most two seconds later if somebody calls `sync`, so losing the
    host loses at most that. Appending never raises: when the disk is full, entries wait in memory
    for room.

    Args:
        folder: Where ``entries.jsonl`` and ``acknowledged`` live; one process at a time.

    Raises:
        RuntimeError: Another process has the spool open.

    Example:
        >>> import tempfile
        >>> spool = Spool(Path(tempfile.mkdtemp()))
        >>> spool.append({"op": "a"}), spool.append({"op": "b"})
        (1, 2)
        >>> outbox = Outbox(spool.folder)
        >>> [first, second] = outbox.pending()
        >>> outbox.acknowledge(first.end)
        >>> [entry.document["op"] for entry in outbox.pending()]
        ['b']
        >>> outbox.close(), spool.close()
        (None, None)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = os.open(folder / ENTRIES, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise RuntimeError(
                f"tracking spool {folder} is in use by another process; one driver per sweep: "
                "wait for it to end or choose another sweep name"
            ) from None
        self._waiting: list[bytes] = []
        self._warned = False
        self._dirty = False
        self._synced = time.monotonic()
        self._size = self._mend()
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

    def _mend(self) -> int:
        """Cut off a line that a crash left half written, and return the file's size."""
        size = os.fstat(self._file).st_size
        position = size
        while position > 0:
            start = max(0, position - READ_BYTES)
            newline = os.pread(self._file, position - start, start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < size:
            os.ftruncate(self._file, position)
        return position


class Outbox:
    """The reading end: entries in order, acknowledged up to a position.

    An entry that was sent but not yet acknowledged is sent again after a crash: receivers must take
    the same entry twice without harm.

    Args:
        folder: A `Spool`'s; one reader at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = os.open(folder / ENTRIES, os.O_RDONLY)
        self.position = _acknowledged(folder, os.fstat(self._file).st_size)
        self._kept, self._synced = self.position, time.monotonic()

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
        if not due or self._kept == self.position:
            return
        draft = self.folder / f"{ACKNOWLEDGED}.draft"
        draft.write_text(str(self.position), encoding="ascii")
        draft.replace(self.folder / ACKNOWLEDGED)
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
    except (FileNotFoundError, ValueError):
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
