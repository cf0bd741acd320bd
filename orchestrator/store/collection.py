"""Removal of shared tensors that no stored result refers to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from orchestrator.store.filesystem import FileEntry, StorageBackend
from orchestrator.store.manifest import read_manifest
from orchestrator.store.shared_tensors import FOLDER, DamagedError, path_of

GRACE_SECONDS = 24 * 3600.0  # a result that is being stored does not refer to its tensors yet


class Collected(NamedTuple):
    """Number and bytes of the tensors that were removed, and of those that stay."""

    removed: int
    removed_bytes: int
    kept: int
    kept_bytes: int

    def line(self) -> str:
        """Return all in one line.

        Example:
            >>> Collected(2, 3_000_000, 40, 1_250_000_000).line()
            'removed 2 tensors (3.0 MB); 40 tensors (1250.0 MB) are in use or younger than a day'
        """
        return (
            f"removed {self.removed} tensors ({self.removed_bytes / 1e6:.1f} MB); "
            f"{self.kept} tensors ({self.kept_bytes / 1e6:.1f} MB) are in use or younger than a day"
        )


def collect(backend: StorageBackend, *, grace_seconds: float = GRACE_SECONDS) -> Collected:
    """Remove the shared tensors that no stored result refers to.

    Results lose their references when they are set aside as damaged, or when somebody deletes
    folders of ``stages/``; a killed process leaves tensors without a result. Removal is a command
    of its own, because only a reading of all manifests tells what is not needed.

    Args:
        backend: The storage.
        grace_seconds: Tensors that were written or used again more recently stay.

    Raises:
        ValueError: A newer version of this project stored results here.
    """
    entries = backend.entries(FOLDER)  # before the manifests: later ones stay anyway
    needed = set(_references(backend))
    unused = [e for e in entries if e.name not in needed and e.age > grace_seconds]
    for entry in unused:
        backend.remove_file(path_of(entry.name))
    kept = set(entries) - set(unused)
    return Collected(len(unused), _total(unused), len(kept), _total(kept))


def _total(entries: list[FileEntry] | set[FileEntry]) -> int:
    return sum(entry.size for entry in entries)


def _references(backend: StorageBackend) -> Iterator[str]:
    """Yield the names of all shared tensors that stored results refer to."""
    for stage in backend.names("stages"):
        for key in backend.names(f"stages/{stage}"):
            text = backend.read(f"stages/{stage}/{key}/manifest.json")
            if text is None:
                continue
            try:
                manifest = read_manifest(text)
            except DamagedError:  # such a result is computed again, not read
                continue
            for shared in manifest["tensors"].values():
                yield from shared.values()
