"""Files of a study that goes on: what must be there, and what a damaged one means."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.search.study_manifest import FILE as MANIFEST
from trainables.errors import ConfigError

JOURNAL = "study.journal"
REMEDY = "restore it from a backup, or give a new --name (stored stage results are reused)"


def read_journal(path: Path) -> list[bytes]:
    """Return the lines of a journal; a last line that was cut off by a kill is left out.

    Raises:
        ConfigError: Another line is damaged, or the journal cannot be read.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from None
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    for number, line in enumerate(lines, start=1):
        if not _is_object(line):
            raise ConfigError(f"{path}, line {number} is damaged; {REMEDY}")
    return lines


def check_study_files(folder: Path, trials: int) -> None:
    """Return if the study of a sweep can go on: neither journal nor manifest is lost or damaged.

    Args:
        folder: Folder of the sweep.
        trials: Number of trials in the sweep's record; without any, a study may begin.

    Raises:
        ConfigError: The study would begin anew although it has trials, or its journal is damaged.
    """
    lines = read_journal(folder / JOURNAL)
    lost = JOURNAL if trials and not lines else None
    if (trials or lines) and not (folder / MANIFEST).exists():
        lost = MANIFEST
    if lost is not None:
        known = f"sweep.json has {trials} trials" if trials else f"{JOURNAL} has trials"
        raise ConfigError(f"sweep '{folder.name}': {folder / lost} is lost, but {known}; {REMEDY}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
