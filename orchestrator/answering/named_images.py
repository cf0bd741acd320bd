"""Which images a command is asked about: files, folders, globs, and names on standard input.

Names come in small groups as they are found, so that any number of images takes little memory, and
a name on standard input is answered when it arrives.
"""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import NamedTuple, cast

from trainables.data.readers.file_tree import listing, looks_like_image
from trainables.errors import ConfigError

STANDARD_INPUT = "-"
GROUP = 16  # images that are decoded and answered together; of the first group one
READ_BYTES = 2**16
LONGEST_NAME = 2**16  # bytes; no system has longer paths


class Unreadable(NamedTuple):
    """A name that gives no image, and in a few words why."""

    image: str
    reason: str


Named = str | Unreadable
_PAUSE = None  # nothing more has arrived: what is there is a group


def named_images(words: Sequence[str]) -> Iterator[list[Named]]:
    """Return the images that words name, in groups of one image, then of up to 16.

    A word is a file, a folder (all images below it, sorted folder by folder), a glob in quotes
    (``**`` goes through folders) or ``-``: names of files and folders on standard input, one a
    line. An existing file wins over a glob of the same spelling.

    Example:
        >>> list(named_images(["no/such.png"]))
        [[Unreadable(image='no/such.png', reason='no such file')]]

    Raises:
        ConfigError: Standard input does not hold names.
    """
    group: list[Named] = []
    most = 1  # the first answer comes as soon as it can
    for found in chain.from_iterable(map(_expand, words)):
        if found is not _PAUSE:
            group.append(found)
        if group and (found is _PAUSE or len(group) == most):
            yield group
            group, most = [], GROUP
    if group:
        yield group


def some_images(groups: Iterator[list[Named]]) -> Iterator[list[Named]]:
    """Return the same groups, if a name among them may be an image.

    Raises:
        ConfigError: None is, or there are no names.
    """
    nothing: list[Named] = []
    for group in groups:
        if any(isinstance(name, str) for name in group):
            return chain([[*nothing, *group]], groups)
        nothing += group
    refused = [f"{name.image}: {name.reason}" for name in nothing if isinstance(name, Unreadable)]
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    raise ConfigError(f"{refused[0]}{more}" if refused else "no names on standard input")


def _expand(word: str) -> Iterable[Named | None]:
    """Return what one word names; a pause after each burst of standard input."""
    if word == STANDARD_INPUT:
        return _standard_input()
    if os.path.lexists(word) or not glob.has_magic(word):
        return _existing(word)
    found = sorted(glob.glob(word, recursive=True, include_hidden=False))
    if not found:
        return [Unreadable(word, "no file has such a name")]
    return chain.from_iterable(map(_existing, _outermost(found)))


def _outermost(names: Sequence[str]) -> list[str]:
    """Return names without those below a folder among them, which stands for all its images."""
    folders = {PurePath(os.path.normpath(name)) for name in names if os.path.isdir(name)}
    return [n for n in names if folders.isdisjoint(PurePath(os.path.normpath(n)).parents)]


def _existing(name: str) -> Iterable[Named]:
    """Return a file, or the images below a folder."""
    if os.path.isdir(name):
        return _below(name)
    if os.path.exists(name):
        return [name]
    return [Unreadable(name, "no such file")]


def _below(folder: str) -> Iterator[Named]:
    """Return the images below a folder; each folder is read once, links are followed."""
    empty = True
    waiting, seen = [folder], set()
    while waiting:
        here = waiting.pop()
        try:
            found = os.stat(here)
        except OSError as error:
            yield Unreadable(here, f"can't be listed ({error.strerror})")
            continue
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        folders, tree = listing(here)
        waiting += reversed(folders)
        for name in filter(looks_like_image, tree.files):
            empty = False
            yield name
        for name, reason in tree.broken:
            empty = False
            yield Unreadable(name, reason)
    if empty:
        yield Unreadable(folder, "no images in this folder")


def _standard_input() -> Iterator[Named | None]:
    """Return what the names on standard input name, burst by burst."""
    if sys.stdin is None:  # closed before the program began
        return
    rest = b""
    stream = cast("io.BufferedReader", sys.stdin.buffer)  # `read1` takes what has arrived
    while chunk := stream.read1(READ_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        if b"\0" in chunk or len(rest) > LONGEST_NAME:
            raise ConfigError(
                f"{STANDARD_INPUT}: standard input takes names of images, one a line; "
                "received something else"
            )
        yield from _lines(whole)
        yield _PAUSE
    yield from _lines([rest])


def _lines(lines: Iterable[bytes]) -> Iterator[Named]:
    for line in lines:
        name = os.fsdecode(line.removesuffix(b"\r"))
        if name:
            yield from _existing(name)
