"""What a stored result says of itself: digests, checksums, computing time, reports."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.artifacts import save_artifact

if TYPE_CHECKING:
    from orchestrator.store import Computed

FORMAT_VERSION = 1


class DamagedError(Exception):
    """A stored result that does not match its manifest."""


def write_result(
    draft: Path,
    stage: str,
    key: str,
    computed: Computed,
    seconds: float,
) -> None:
    """Write artifacts into a folder, then the manifest over them.

    Args:
        draft: The folder.
        stage: Name of the stage that gave them.
        key: Digest of what they are made from.
        computed: Artifacts by name, reports, and the epochs that were taken over.
        seconds: Computing time.
    """
    digests = {name: save_artifact(a, draft / name) for name, a in computed.artifacts.items()}
    files = sorted(str(p.relative_to(draft)) for p in draft.rglob("*") if p.is_file())
    manifest = {
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "key": key,
        "artifacts": digests,
        "files": {name: checksum(draft / name) for name in files},
        "seconds": seconds,
        "history": [{k: float(v) for k, v in row.items()} for row in computed.history],
        "continued": computed.continued,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))


def read_manifest(text: bytes) -> dict[str, Any]:
    """Parse a manifest.

    Raises:
        DamagedError: It is not one.
        ValueError: A newer version of this project wrote it.
    """
    try:
        manifest: dict[str, Any] = json.loads(text)
        missing = {"format_version", "artifacts", "files", "seconds", "history"} - manifest.keys()
    except (ValueError, AttributeError):
        raise DamagedError("its manifest is not JSON") from None
    if missing:
        raise DamagedError(f"its manifest lacks {', '.join(sorted(missing))}")
    if manifest["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"a stored result has format {manifest['format_version']}, this version reads up to "
            f"{FORMAT_VERSION}; use the version that wrote it, or another storage"
        )
    return manifest


def checksum(path: Path) -> str | None:
    """Return the SHA-256 (hex) of a file; ``None``: there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
