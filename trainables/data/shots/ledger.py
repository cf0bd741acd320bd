"""The ledger of parts: which image was put into which part, written once and never changed.

One line of JSON an image, in ``splits.jsonl``: ``bytes`` and ``pixels`` (SHA-256 of file and of
decoded image), ``group``, ``part`` (train, val or test) and ``first_seen`` (UTC). Lines are only
appended, in one write; of two lines about one image the later one counts. What is written wins
over whatever a hash or a grown folder would say now. An editor may take the last line's break, or
add empty lines. A ledger that was lost or cut short is completed from a copy.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from trainables.errors import ConfigError, short

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
FIELDS = ("bytes", "pixels", "group", "part", "first_seen")


class Entry(NamedTuple):
    """A line of the ledger."""

    bytes_digest: str
    pixel_digest: str
    group: str
    part: Part
    first_seen: str


class Ledger:
    """What a ledger says, by an image's bytes, by its pixels and by its group.

    Args:
        path: The file; without one nothing was decided yet.

    Raises:
        ConfigError: A line before the last one is damaged. (The last one may be torn: the process
            that wrote it was stopped, and its images are decided again in the same way.)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_bytes: dict[str, Entry] = {}
        self.by_pixels: dict[str, Entry] = {}
        for entry in _read(path):
            self._add(entry)

    def find(self, bytes_digest: str, pixel_digest: str) -> Entry | None:
        """Return the line about an image: of the same file, else of the same pixels."""
        return self.by_bytes.get(bytes_digest) or self.by_pixels.get(pixel_digest)

    def append(self, decided: Iterable[tuple[str, str, str, Part]]) -> None:
        """Write images (bytes, pixels, group, part) that the ledger does not hold like this."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        new = []
        for bytes_digest, pixel_digest, group, part in decided:
            held = self.by_bytes.get(bytes_digest)
            if held is None or (held.group, held.part) != (group, part):
                first = now if held is None else held.first_seen
                new.append(Entry(bytes_digest, pixel_digest, group, part, first))
        if new:
            _append(self.path, new)
        for entry in new:
            self._add(entry)

    def _add(self, entry: Entry) -> None:
        self.by_bytes[entry.bytes_digest] = entry
        self.by_pixels[entry.pixel_digest] = entry


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a ledger for oneself, from reading it to appending; another process waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def complete(path: Path, copy: Path) -> int:
    """Add to a ledger what a copy of it says of images that it does not know.

    Returns:
        The number of these images. What the ledger says itself stays.

    Raises:
        ConfigError: One of the two is damaged.
    """
    with locked(path):
        known = Ledger(path).by_bytes
        lost = [entry for digest, entry in Ledger(copy).by_bytes.items() if digest not in known]
        if lost:
            _append(path, lost)
    return len(lost)


def _read(path: Path) -> list[Entry]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror})") from None
    lines = _whole(content).split(b"\n")
    return [_parse(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _whole(content: bytes) -> bytes:
    r"""Return the whole lines of a ledger, each with a break: without a last one that is torn.

    Example:
        >>> _whole(b'{"bytes": "b1"}\n{"bytes": "b2"}'), _whole(b'{"bytes": "b1"}\n{"bytes": "b')
        (b'{"bytes": "b1"}\n{"bytes": "b2"}\n', b'{"bytes": "b1"}\n')
    """
    end = content.rfind(b"\n") + 1
    try:
        json.loads(content[end:])
    except ValueError:
        return content[:end]
    return content + b"\n"


def _parse(path: Path, number: int, line: bytes) -> Entry:
    try:
        plain = json.loads(line)
        entry = Entry(*(plain[field] for field in FIELDS))
        if not all(isinstance(value, str) for value in entry) or entry.part not in PARTS:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path} line {number} is damaged: a line must be an object with "
            f"{', '.join(FIELDS)} (part: train, val or test); received "
            f"{short(line.decode(errors='replace'))}; delete the line: what the champion's version "
            "knows of its image is put back, else the image is decided anew"
        ) from None
    return entry


def _append(path: Path, entries: list[Entry]) -> None:
    """Append lines in one write, behind whole lines alone."""
    lines = (json.dumps(dict(zip(FIELDS, entry, strict=True))) + "\n" for entry in entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        content = path.read_bytes()
        whole = _whole(content)
        file.truncate(min(len(whole), len(content)))
        file.write(whole[len(content) :] + "".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())
