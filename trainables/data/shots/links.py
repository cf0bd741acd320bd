"""Which images must not be parted: near copies and bursts; remembered while nothing changes.

In CIFAR-100 this links 1.0 to 1.8 % of the images of 20 classes of 100 (two draws), and 1.7 % of
those of 10 whole classes; most are one picture twice. Without a least similarity of running numbers
it was 3.2 % of the latter: 1 in 1,000 pairs of different classes is a low level there (0.75).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from trainables.data.shots.bursts import links_by_number, links_by_time
from trainables.data.shots.grouping import Link
from trainables.data.shots.identity import Content
from trainables.data.shots.near_copies import LEVEL, Alikeness
from trainables.data.source_cache import Integers
from trainables.settings import canonical_json

VERSION = 3
BURST = 0.9  # similarity of images that only might be a burst, at least


def find_links(
    paths: Sequence[str], class_names: Sequence[str], contents: Sequence[Content], note: Path
) -> list[Link]:
    """Return pairs of images that must not be parted.

    Images that are gone take part with what is remembered of them: without a path and a class.

    Args:
        paths: The files.
        class_names: Their classes.
        contents: What they hold.
        note: File in which the pairs are kept; they are read from there while all images, names
            and classes are those of the last call.
    """
    rows = [
        (path, name, content.bytes_digest, str(content.taken), content.camera)
        for path, name, content in zip(paths, class_names, contents, strict=True)
    ]
    key = hashlib.sha256(canonical_json([VERSION, rows]).encode()).hexdigest()
    with (
        suppress(OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile),
        note.open("rb") as file,
        np.load(file, allow_pickle=False) as held,
    ):
        if str(held["key"]) == key:
            return _tuples(held["pairs"])
    found = _find(paths, class_names, contents)
    pairs = np.array(sorted(set(found)), dtype=np.int64).reshape(-1, 2)
    draft = note.with_name(f"{note.stem}.{os.getpid()}.draft.npz")
    with suppress(OSError):  # a full disk costs the next look its time
        note.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(draft, key=key, pairs=pairs)
            draft.replace(note)
        finally:
            draft.unlink(missing_ok=True)
    return _tuples(pairs)


def _find(
    paths: Sequence[str], class_names: Sequence[str], contents: Sequence[Content]
) -> list[Link]:
    taken = [content.taken for content in contents]
    alikeness = Alikeness(np.stack([content.thumbnail for content in contents]))
    strangers = alikeness.level_of_strangers(class_names)
    pairs, similarity = alikeness.near()
    near = _tuples(pairs[(similarity >= LEVEL) & (similarity > strangers)])
    timely = links_by_time(taken, [content.camera for content in contents], class_names)
    maybe = [*timely.if_alike, *links_by_number(paths, class_names, taken)]
    alike = alikeness.of_pairs(np.array(maybe, dtype=np.int64).reshape(-1, 2))
    return [
        *near,
        *timely.certain,
        *(pair for pair, s in zip(maybe, alike, strict=True) if s > max(strangers, BURST)),
    ]


def _tuples(pairs: Integers) -> list[Link]:
    return [(one, other) for one, other in pairs.tolist()]
