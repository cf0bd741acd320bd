"""The study's journal on disk: one writer, quick appends, mended after a kill."""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from collections.abc import Generator
from io import FileIO
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from trainables.errors import ConfigError

_encode = json.JSONEncoder(separators=(",", ":")).encode


class SweepJournal(JournalFileBackend):
    """Optuna's journal file without lock, disk flush and reading back after each line.

    A sweep's driver is the only writer (see `claim`), and a killed process loses nothing that it
    wrote; the disk has it seconds later. The format is Optuna's: ``optuna-dashboard`` and
    `JournalFileBackend` read it.

    The file is open from the first line that is written until the object is gone.

    Args:
        path: The journal; made if it is missing. A line that was cut off by a kill is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_file():
            _drop_torn_line(path)
        super().__init__(str(path))
        self._lines = path.read_bytes().splitlines()
        self._file: FileIO | None = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations in one write."""
        lines = [_encode(log).encode() for log in logs]
        self._write(b"\n".join(lines) + b"\n")
        self._lines += lines

    def _write(self, text: bytes) -> None:
        """Append all of a text, or nothing.

        Raises:
            OSError: The disk is full, for one.
        """
        if self._file is None:
            self._file = FileIO(self._path, "ab")
            weakref.finalize(self, self._file.close)
        done = 0
        try:
            while done < len(text):  # a disk that is nearly full takes a part first
                done += self._file.write(text[done:])
        except OSError:
            os.truncate(self._path, self._path.stat().st_size - done)
            raise

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the operations from a number on, from memory."""
        for position in range(log_number_from, len(self._lines)):
            yield json.loads(self._lines[position])


def _drop_torn_line(path: Path) -> None:
    """Cut a journal after its last whole line."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        position = size
        while position > 0:
            start = max(0, position - 4096)
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                position = start + found + 1
                break
            position = start
        if position < size:
            file.truncate(position)


def claim(folder: Path) -> int:
    """Make this process the sweep's only driver, until it closes the returned handle or ends.

    Raises:
        ConfigError: Another process drives the sweep.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "study.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 64).decode(errors="replace").strip()
        if owner != str(os.getpid()):  # an earlier searcher of this process has ended
            os.close(handle)
            raise ConfigError(
                f"sweep '{folder.name}' is being run by process {owner or 'unknown'}; "
                "wait for it, or give a new --name"
            ) from None
    except OSError:  # a share without locks: nothing can be checked
        return handle
    os.truncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle
