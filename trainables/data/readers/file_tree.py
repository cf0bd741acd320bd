"""Files below a folder: links followed, hidden and system files told apart, names made readable."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from trainables.errors import readable

CLUTTER = re.compile(
    r"\.|(thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r|__macosx|__pycache__|@eadir|@tmp|[@#]recycle"
    r"|\$recycle\.bin|system volume information|lost\+found)\Z",
    re.IGNORECASE,
)
IMAGE = re.compile(
    r"\.(apng|avif|bmp|dib|gif|hei[cf]|j2k|jfif|jp2|jpe|jpe?g|pbm|pcx|pgm|png|pnm|ppm|tga|tiff?|webp)\Z",
    re.IGNORECASE,
)


class Tree(NamedTuple):
    """What lies below a folder.

    ``files`` sorted; ``clutter`` the hidden and system names; ``broken`` paths that can't be read,
    with the reason; ``repeated`` links to a folder that was read already or lies above.
    """

    files: list[str]
    clutter: list[str]
    broken: list[tuple[str, str]]
    repeated: list[str]


def walk(folder: str, above: Iterable[str] = ()) -> Tree:
    """List all files below a folder; links are followed, each folder is read once.

    Args:
        folder: Where to start.
        above: Folders that a link must not lead back to.
    """
    whole = Tree([], [], [], [])
    seen = {(found.st_dev, found.st_ino) for found in map(os.stat, above)}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            found = os.stat(here)
        except OSError as error:
            whole.broken.append((here, f"can't be listed ({error.strerror})"))
            continue
        if (found.st_dev, found.st_ino) in seen:
            whole.repeated.append(here)
            continue
        seen.add((found.st_dev, found.st_ino))
        folders, tree = listing(here)
        waiting += folders
        whole.files.extend(tree.files)
        whole.clutter.extend(tree.clutter)
        whole.broken.extend(tree.broken)
    whole.files.sort()
    return whole


def listing(folder: str) -> tuple[list[str], Tree]:
    """Return the sub-folders of a folder, sorted by name, and what else lies directly in it."""
    tree = Tree([], [], [], [])
    try:
        with os.scandir(folder) as entries:
            folders = [entry.path for entry in entries if _sort(entry, tree)]
    except OSError as error:
        tree.broken.append((folder, f"can't be listed ({error.strerror})"))
        folders = []
    tree.files.sort()
    return sorted(folders, key=os.path.basename), tree


def _sort(entry: os.DirEntry[str], tree: Tree) -> bool:
    """Put an entry where it belongs; return whether it is a folder to read."""
    if is_clutter(entry.name):
        tree.clutter.append(entry.path)
        return False
    try:
        if entry.is_dir():
            return True
        if entry.is_file():
            tree.files.append(entry.path)
            return False
    except OSError as error:
        tree.broken.append((entry.path, f"can't be read ({error.strerror})"))
        return False
    if entry.is_symlink():
        tree.broken.append(
            (entry.path, f"is a link to {os.readlink(entry.path)}, which does not exist")
        )
    else:
        tree.broken.append((entry.path, "is no regular file"))
    return False


def is_clutter(name: str) -> bool:
    """Say whether a name is hidden, or written by a system: never an image, never a class."""
    return CLUTTER.match(name) is not None


def looks_like_image(name: str) -> bool:
    """Say whether a file's name ends as those of images do."""
    return IMAGE.search(name) is not None


def holds_images(folder: str) -> bool:
    """Say whether a folder holds a file that is named like an image, at any depth."""
    return any(looks_like_image(path) for path in walk(folder).files)


def class_labels(names: Iterable[str]) -> dict[str, str]:
    r"""Return the class name of each folder name: readable, composed (NFC), one per spelling.

    Example:
        >>> class_labels(["cat", "caf\udce8", "caf\udce9"])
        {'cat': 'cat', 'caf\udce8': 'caf�', 'caf\udce9': 'caf� (2)'}
    """
    labels: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in sorted(set(names), key=lambda name: (readable(name) != name, name)):
        origin = unicodedata.normalize("NFC", name)
        label = shown = unicodedata.normalize("NFC", readable(name))
        number = 1
        while taken.setdefault(label, origin) != origin:
            number += 1
            label = f"{shown} ({number})"
        labels[name] = label
    return labels
