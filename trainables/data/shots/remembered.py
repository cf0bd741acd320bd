"""What files held when they were last read, so that a second look reads none that is unchanged.

A file counts as unchanged while device, inode, size, modification time and status change time are
what they were. Contents of images that are gone are kept for as long as the ledger names them:
an image that comes back encoded anew is known by its thumbnail. Without this store (delete it, or
ask to verify) all files are read again.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from trainables.data.shots.identity import Content, read_contents
from trainables.data.source_cache import SETTLED_SECONDS, file_facts

VERSION = 1
SAVED_SECONDS = 60.0  # a first look at many photos loses at most this much when it is stopped


class Remembered:
    """Contents by the facts of files, and by the digest of their bytes.

    Args:
        path: Where they are stored; a file that can't be read counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest_of: dict[str, str] = {}
        self.contents: dict[str, Content] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
            self._load()

    def look(
        self,
        files: Sequence[str],
        *,
        verify: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Content]:
        """Return the content of each file; files that changed, or all of them, are read.

        Args:
            files: The files.
            verify: Read all files again.
            progress: Called with the number of files that were read, and of those to read.
        """
        facts = {path: _facts(path) for path in files}
        known = {} if verify else self.digest_of
        fresh = [path for path in files if known.get(facts[path], "") not in self.contents]
        found = {path: self.contents[known[facts[path]]] for path in set(files) - set(fresh)}
        saved = time.monotonic()
        try:
            for path, content in read_contents(fresh, progress):
                found[path] = content
                if content.bytes_digest:
                    self.contents[content.bytes_digest] = content
                    self._note(facts[path], content.bytes_digest)
                if time.monotonic() - saved > SAVED_SECONDS:
                    self.save()
                    saved = time.monotonic()
        finally:
            if fresh:
                self.save()
        return found

    def _note(self, facts: str, digest: str) -> None:
        """Note what a file holds, unless it may change again within its time stamp."""
        times = [int(fact) for fact in facts.split()[3:]]  # none: it came after it was looked for
        if times and max(times) / 1e9 + SETTLED_SECONDS < time.time():
            self.digest_of[facts] = digest

    def keep(self, files: Iterable[str], digests: Iterable[str]) -> None:
        """Forget what neither belongs to these files nor has one of these digests."""
        current = {_facts(path) for path in files}
        here = {facts: digest for facts, digest in self.digest_of.items() if facts in current}
        wanted = {*digests, *here.values()}
        if len(here) < len(self.digest_of) or not self.contents.keys() <= wanted:
            self.digest_of = here
            self.contents = {d: content for d, content in self.contents.items() if d in wanted}
            self.save()

    def save(self) -> None:
        """Write all, whole or not at all; a full disk costs the next look its time."""
        contents = list(self.contents.values())
        plain: dict[str, Any] = {
            "version": np.array(VERSION),
            "facts": _texts(self.digest_of),
            "facts_digests": _texts(self.digest_of.values()),
            "thumbnails": np.array([c.thumbnail for c in contents], dtype=np.uint8),
            "sizes": np.array([c.size for c in contents], dtype=np.int64),
            "taken": np.array([c.taken for c in contents], dtype=np.float64),
            **{name: _texts(getattr(c, name) for c in contents) for name in _TEXTS},
        }
        buffer = io.BytesIO()
        np.savez(buffer, **plain)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.draft")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_bytes(buffer.getvalue())
                draft.replace(self.path)
            finally:
                draft.unlink(missing_ok=True)

    def _load(self) -> None:
        with self.path.open("rb") as file, np.load(file, allow_pickle=False) as plain:
            if int(plain["version"]) != VERSION:
                return
            arrays = {name: plain[name] for name in plain.files}
        rows = zip(
            *(arrays[name].tolist() for name in ("bytes_digest", "pixel_digest")),
            map(tuple, arrays["sizes"].tolist()),
            *(arrays[name].tolist() for name in ("taken", "camera", "kind")),
            arrays["thumbnails"],
            arrays["reason"].tolist(),
            strict=True,
        )
        self.contents = {row[0]: Content(*row) for row in rows}
        pairs = (arrays[name].tolist() for name in ("facts", "facts_digests"))
        self.digest_of = dict(zip(*pairs, strict=True))


_TEXTS = ("bytes_digest", "pixel_digest", "camera", "kind", "reason")


def _facts(path: str) -> str:
    """Return as text what tells a version of a file from others."""
    return " ".join(map(str, file_facts(path)))


def _texts(values: Iterable[str]) -> np.ndarray[Any, np.dtype[np.str_]]:
    return np.array(list(values), dtype=np.str_)
