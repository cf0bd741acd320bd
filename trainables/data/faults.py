"""Faults of a data set, all of them at once: one line each, with the file and the remedy."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainables.data.decode import Head
from trainables.data.source_cache import Source
from trainables.errors import DataError as DataError  # its readers import both from here
from trainables.errors import Fault as Fault
from trainables.errors import readable

MOST_LINES = 20  # of one kind of fault
MOST_NAMES = 5  # in a line that counts files
QUIET = "hidden and system files"

logger = logging.getLogger(__name__)

_shown: set[str] = set()  # lines that this process has shown


def refuse_fatal(faults: Sequence[Fault]) -> None:
    """Do nothing unless a fault is fatal.

    Raises:
        DataError: With all faults.
    """
    if any(fault.fatal for fault in faults):
        raise DataError(faults)


def fault_lines(faults: Sequence[Fault]) -> list[str]:
    """Return the faults by kind, fatal kinds first: at most 20 lines a kind, then a count.

    Example:
        >>> lines = fault_lines([Fault("unreadable files", f"{n}.png") for n in range(23)])
        >>> len(lines), lines[-1]
        (21, '... 23 unreadable files in all')
    """
    kinds: dict[tuple[bool, str], list[str]] = {}
    for fault in faults:
        kinds.setdefault((fault.fatal, fault.kind), []).append(fault.text)
    lines: list[str] = []
    for (_, kind), texts in sorted(kinds.items(), key=lambda item: not item[0][0]):
        lines += texts[:MOST_LINES]
        if len(texts) > MOST_LINES:
            lines.append(f"... {len(texts)} {kind} in all")
    return lines


def some(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """Return the first names, and how many more there are.

    Example:
        >>> some(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def folder_name(path: str) -> str:
    """Return the last name of a folder with a slash, to be shown."""
    return f"{os.path.basename(path)}/"


def folder_names(paths: list[str]) -> str:
    """Return the last names of folders as text, the first ones of many."""
    return some([folder_name(path) for path in paths])


def log_faults(faults: Sequence[Fault]) -> None:
    """Log lines about a data set that this process has not shown before.

    A sweep loads a data set once per world. Names that never count are not worth a warning.
    """
    for fault in faults:
        if fault.text not in _shown:
            logger.log(logging.INFO if fault.kind == QUIET else logging.WARNING, "%s", fault.text)
    mark_shown(faults)


def mark_shown(faults: Sequence[Fault]) -> None:
    """Note that lines were shown, so that `log_faults` leaves them out."""
    _shown.update(fault.text for fault in faults)


def unreadable_files(files: Sequence[str], heads: Sequence[Head], *, skip: bool) -> list[Fault]:
    """Return a fault for each file that can't be read; with ``skip`` only if none can."""
    bad = [(path, head.reason) for path, head in zip(files, heads, strict=True) if head.reason]
    if skip and len(bad) < len(files):
        return []
    remedy = "delete or replace it, or set data.skip_unreadable=true to leave such files out"
    return [
        Fault(
            "unreadable files",
            readable(f"{path} can't be read as an image ({reason}); {remedy}"),
        )
        for path, reason in bad
    ]


def class_faults(
    source: Source, folder: Path, *, parted: bool, all_judged: bool = True
) -> list[Fault]:
    """Return a fault for each class without training images, or without images to judge it by.

    Args:
        source: The source.
        folder: Where it is from.
        parted: It has a test part of its own.
        all_judged: A class without test images in such a part is a mistake.
    """
    names = source.class_names
    if len(names) < 2:
        found = some(names) or "none"
        text = f"{folder} has {len(names)} class ({found}); at least 2 are needed"
        inner = folder / names[0] if names else folder
        if any(path.is_dir() for path in (inner.iterdir() if inner.is_dir() else ())):
            text += f"; if the classes lie in {inner}, give folder:{inner}"
        return [Fault("too few classes", readable(text))]
    in_train, in_test = (
        np.bincount(source.labels[part], minlength=len(names)).tolist()
        for part in (~source.is_test, source.is_test)
    )
    faults = []
    for name, train, test in zip(names, in_train, in_test, strict=True):
        if not train and source.copies:
            text = f"class '{name}' in {folder} trains on copies of test images alone; add others"
            faults.append(Fault("copies of test images", readable(text)))
        elif not train:
            faults.append(_one_part(name, "test", "train", names, folder))
        elif not test and parted and not all_judged:
            continue
        elif not test and parted:
            faults.append(_one_part(name, "train", "test", names, folder))
        elif not test:
            text = (
                f"class '{name}' in {folder} has 1 image: it is trained on and not judged; "
                "add images to judge it"
            )
            faults.append(Fault("classes that are not judged", readable(text), fatal=False))
    return faults


def _one_part(name: str, side: str, other: str, names: Sequence[str], folder: Path) -> Fault:
    """Return the fault of a class that is in one part only; a class of nearly its name is named."""
    near = [n for n in names if n != name and n.strip().casefold() == name.strip().casefold()]
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return Fault(
        "classes in one part only",
        readable(
            f"class '{name}' in {folder} is in the {side} part only; add {other} images, or "
            f"delete it from the {side} part{hint}"
        ),
    )


def left_out(source: Source, folder: Path) -> list[Fault]:
    """Return a line for each kind of file that was left out."""
    faults = []
    if source.skipped:
        text = f"{folder}: skipped {len(source.skipped)} unreadable files: {some(source.skipped)}"
        faults.append(Fault("unreadable files", readable(text), fatal=False))
    if source.copies:
        what = "are copies of test images"
        what += "" if source.groups is None else " or share a group with some"
        text = (
            f"{folder}: training images that {what} left out "
            f"({len(source.copies)}): {some(source.copies)}"
        )
        faults.append(Fault("copies of test images", readable(text), fatal=False))
    return faults
