"""Manifest of a stored result: digests, checksums, shared tensors, computing time, reports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.store.shared_tensors import DamagedError, Put, share
from trainables.artifacts import content_digest, take_apart, write_parts

FORMAT_VERSION = 2  # 1: all tensors of an artifact are in its folder


class Computed(NamedTuple):
    """Result of a computed stage: artifacts by name, and reports with their ``epoch``.

    ``continued`` is the number of epochs that a shorter training had computed, ``computed_with``
    what the result depends on beside its key; see `trainables.threads.computed_with`.
    """

    artifacts: Mapping[str, Any]
    history: list[dict[str, float]]
    continued: int = 0
    computed_with: Mapping[str, str] = {}


def write_result(
    draft: Path,
    stage: str,
    key: str,
    computed: Computed,
    seconds: float,
    put: Put,
) -> None:
    """Write artifacts into a folder, then their manifest.

    Tensors of 4 KiB and more are stored by content, outside of the folder.

    Args:
        draft: The folder.
        stage: Name of the stage.
        key: Key of the result, the digest of all its inputs.
        computed: Result of the stage.
        seconds: Computing time.
        put: Stores a file of a shared tensor.
    """
    digests: dict[str, str] = {}
    shared: dict[str, dict[str, str]] = {}
    for name, artifact in computed.artifacts.items():
        parts = take_apart(artifact)
        digests[name] = content_digest(parts.plain, parts.tensors)
        shared[name] = share(parts.tensors, put)
        own = {key: tensor for key, tensor in parts.tensors.items() if key not in shared[name]}
        write_parts(parts._replace(tensors=own), draft / name)
    files = sorted(str(p.relative_to(draft)) for p in draft.rglob("*") if p.is_file())
    manifest = {
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "key": key,
        "artifacts": digests,
        "tensors": shared,
        "files": {name: checksum(draft / name) for name in files},
        "seconds": seconds,
        "history": [{k: float(v) for k, v in row.items()} for row in computed.history],
        "continued": computed.continued,
        "computed_with": dict(computed.computed_with),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))


def read_manifest(text: bytes) -> dict[str, Any]:
    """Parse a manifest.

    Raises:
        DamagedError: The text is not a manifest.
        ValueError: A newer version of this project wrote the manifest.
    """
    try:
        manifest: dict[str, Any] = json.loads(text)
        missing = {"format_version", "artifacts", "files", "seconds", "history"} - manifest.keys()
    except (ValueError, AttributeError):
        raise DamagedError("the manifest is not JSON") from None
    if missing:
        raise DamagedError(f"the manifest lacks {', '.join(sorted(missing))}")
    manifest.setdefault("tensors", {})
    if manifest["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"a stored result has format {manifest['format_version']}, but this version of the "
            f"project reads formats up to {FORMAT_VERSION}; use the version that wrote the result, "
            "or another storage"
        )
    return manifest


def checksum(path: Path) -> str | None:
    """Return the SHA-256 (hex) of a file; ``None`` if the file does not exist."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
