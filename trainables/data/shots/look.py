"""`look_at_photos`: from a folder to photos with class, group and part, and all that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainables.data.shots.candidates import (
    RECOGNIZED,
    Candidate,
    Found,
    find_rows,
    sort_unreadable,
)
from trainables.data.shots.grouping import Copies, Link, sort_copies
from trainables.data.shots.identity import Content
from trainables.data.shots.ledger import Entry, Ledger, locked
from trainables.data.shots.links import find_links
from trainables.data.shots.own_groups import corrected_labels, own_groups
from trainables.data.shots.parts import RANK, Cut, Node, cut
from trainables.data.shots.photo_set import LeftOut, Photo, PhotoSet
from trainables.data.shots.remarks import catch_all_classes, remarks_about
from trainables.data.shots.remembered import Remembered
from trainables.data.source_names import Columns
from trainables.errors import ConfigError

CONTENTS, LINKS = "contents.npz", "links.npz"  # beside the ledger
NAME_DIGITS = 16  # of a group's name

Progress = Callable[[str, int, int], None]


def look_at_photos(
    folder: Path,
    *,
    ledger: Path,
    groups: str | Path | None = None,
    labels: Path | None = None,
    seed: int = 0,
    verify: bool = False,
    progress: Progress | None = None,
    columns: Columns = RECOGNIZED,
) -> PhotoSet:
    """Look at a folder of photos, decide the parts of what is new, and write them down.

    Args:
        folder: Class folders, or train/, val/ and test/ with such; or a table of files.
        ledger: File of the parts that were decided; it is read and appended to. What files held is
            remembered beside it.
        groups: The user's own groups: a table with the columns path and group, or a pattern of
            file names inside a class.
        labels: Table with the columns path and label that corrects labels; files stay untouched.
        seed: New groups are hashed with it. Written parts do not depend on it.
        verify: Read all files again, also those that look unchanged.
        progress: Called with what is done ("look"), and with the number of files that are read and
            to read.
        columns: Names of the columns of a table.

    Raises:
        ConfigError: There is no such folder, nothing in it is an image with a class, or the ledger
            is damaged.
    """
    found = find_rows(folder, ledger.parent / "cache", columns)
    remembered = Remembered(ledger.with_name(CONTENTS))
    paths = [row.path for row in found.rows]
    report = None if progress is None else lambda done, total: progress("look", done, total)
    contents = remembered.look(paths, verify=verify, progress=report)
    found, corrected = _corrected(found, folder, groups, labels)
    candidates, unreadable = sort_unreadable(found, contents)
    if not candidates:
        raise ConfigError(f"{folder} holds no image that can be read; put some into class folders")
    with locked(ledger):
        book = Ledger(ledger)
        photos, left_out = _sort(candidates, found, book, remembered.contents, seed)
        if not photos:
            path, reason = next(iter(left_out.items()))
            raise ConfigError(
                f"{folder} holds no image that counts: all {len(left_out)} are left out, such as "
                f"{found.shown(path)} ({reason})"
            )
        book.append((p.bytes_digest, p.pixel_digest, p.group, p.part) for p in photos)
    remembered.keep(paths, book.by_bytes)
    left_out = {**found.left_out, **unreadable, **left_out}
    images = _photo_set(folder, found, photos, left_out, contents)
    return images._replace(corrected={Path(path): label for path, label in corrected.items()})


def _corrected(
    found: Found, folder: Path, groups: str | Path | None, labels: Path | None
) -> tuple[Found, dict[str, str]]:
    """Return the files with the user's own groups and corrected labels, and these labels."""
    paths, names = [row.path for row in found.rows], [row.label for row in found.rows]
    label_of = corrected_labels(labels, folder, paths, names) if labels else {}
    group_of = own_groups(groups, folder, paths, names) if groups else {}
    rows = [
        row._replace(
            label=label_of.get(row.path, row.label), group=group_of.get(row.path, row.group)
        )
        for row in found.rows
    ]
    return found._replace(rows=rows), label_of


def _photo_set(
    folder: Path,
    found: Found,
    photos: list[Photo],
    left_out: Mapping[str, str],
    contents: Mapping[str, Content],
) -> PhotoSet:
    classes = sorted({photo.class_name for photo in photos})
    tested = {photo.class_name for photo in photos if photo.part == "test"}
    small = frozenset(classes) - tested
    return PhotoSet(
        Path(os.path.abspath(folder)),
        sorted(photos, key=lambda photo: (photo.class_name, str(photo.file))),
        [LeftOut(Path(path), left_out[path]) for path in sorted(left_out)],
        classes,
        found.loose,
        found.own_parts,
        [*found.notes, *remarks_about(photos, contents)],
        catch_all_classes(classes),
        small,
    )


def _sort(
    candidates: Sequence[Candidate],
    found: Found,
    book: Ledger,
    contents: Mapping[str, Content],
    seed: int,
) -> tuple[list[Photo], dict[str, str]]:
    """Return the images that count with part and group, and why others do not."""
    copies = _copies(candidates, book)
    kept = [candidates[place] for place in copies.kept]
    entries = [book.find(c.content.bytes_digest, c.content.pixel_digest) for c in kept]
    gone = _gone(book, kept)
    nodes = [
        *map(_node, kept, entries),
        *(Node(e.bytes_digest[:NAME_DIGITS], "", "", e.part, e.group) for e in gone),
    ]
    links = _links(kept, gone, contents, book.path.with_name(LINKS))
    done = cut(nodes, links, own_test="test" in found.own_parts, seed=seed)
    photos = [
        Photo(
            Path(c.path),
            c.class_name,
            part,
            group,
            c.content.bytes_digest,
            c.content.pixel_digest,
            c.content.size,
        )
        for c, part, group in zip(kept, done.parts, done.groups, strict=False)
        if part
    ]
    return photos, {
        **_why_copies(candidates, copies, done, found),
        **_why_linked(kept, done, found),
    }


def _links(
    kept: Sequence[Candidate], gone: Sequence[Entry], contents: Mapping[str, Content], note: Path
) -> list[Link]:
    """Return near copies and bursts, but for images whose group the user says."""
    if not kept:
        return []
    absent = [contents.get(e.bytes_digest, Content(e.bytes_digest)) for e in gone]
    links = find_links(
        [*(c.path for c in kept), *("" for _ in gone)],
        [*(c.class_name for c in kept), *("" for _ in gone)],
        [*(c.content for c in kept), *absent],
        note,
    )
    said = {place for place, candidate in enumerate(kept) if candidate.group}
    return [pair for pair in links if said.isdisjoint(pair)]


def _copies(candidates: Sequence[Candidate], book: Ledger) -> Copies:
    """Sort out equal pixels; a file of the folder's own test or one that is written is kept."""

    def rank(candidate: Candidate) -> int:
        written = candidate.content.bytes_digest in book.by_bytes
        return 2 * RANK.get(candidate.own, 2) + (not written)

    return sort_copies(
        [c.content.pixel_digest for c in candidates],
        [c.class_name for c in candidates],
        [rank(c) for c in candidates],
    )


def _node(candidate: Candidate, entry: Entry | None) -> Node:
    name = candidate.content.bytes_digest[:NAME_DIGITS]
    node = Node(name, candidate.class_name, candidate.own, group=candidate.group)
    return node._replace(written=entry.part, written_group=entry.group) if entry else node


def _gone(book: Ledger, kept: Sequence[Candidate]) -> list[Entry]:
    """Return the lines of the ledger about images that do not count now."""
    here = {c.content.bytes_digest for c in kept}
    pixels = {c.content.pixel_digest for c in kept}
    return [
        entry
        for entry in book.by_bytes.values()
        if entry.bytes_digest not in here and entry.pixel_digest not in pixels
    ]


def _why_copies(
    candidates: Sequence[Candidate], copies: Copies, done: Cut, found: Found
) -> dict[str, str]:
    """Say of each image with the pixels of another why it does not count."""
    place_of = {place: n for n, place in enumerate(copies.kept)}
    left_out = {}
    for place, first in copies.copy_of.items():
        part = done.parts[place_of[first]]
        what = f"the {part} image " if part in ("test", "val") else ""
        left_out[candidates[place].path] = f"copy of {what}{found.shown(candidates[first].path)}"
    for place, (one, other) in copies.at_odds.items():
        left_out[candidates[place].path] = f"same image under labels {one} and {other}"
    return left_out


def _why_linked(kept: Sequence[Candidate], done: Cut, found: Found) -> dict[str, str]:
    """Say of each image that is linked to another part why it does not count."""
    left_out = {}
    for n, parts in done.linking.items():
        left_out[kept[n].path] = f"links {' and '.join(reversed(parts))}"
    for n, other in done.beside.items():
        part = f"{done.parts[other]} " if done.parts[other] else ""  # it is left out itself
        what = f"the {part}image {found.shown(kept[other].path)}"
        left_out[kept[n].path] = f"in one shot with {what}"
    return left_out
