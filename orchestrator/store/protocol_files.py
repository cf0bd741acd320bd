"""Protocol of a sweep as files: classes, sizes and the index list of every view, one per world."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.locking.sweep_lock import write_file


def save_protocol(
    folder: Path, summary: Mapping[str, Any], index_lists: Mapping[str, list[int]]
) -> Path:
    """Write how the data was cut as ``protocol-<world>.json`` and return the file's path.

    Args:
        folder: Folder of the sweep.
        summary: ``Views.summary``.
        index_lists: ``Views.index_lists``, positions of images in the source by view.

    Raises:
        SweepLostError: Another driver took the sweep over.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_protocol(folder, {"world": "test"}, {"known_train": [4, 7]}).name
        'protocol-test.json'
        >>> load_protocol(folder, "test")["index_lists"]
        {'known_train': [4, 7]}
    """
    path = folder / f"protocol-{summary['world']}.json"
    content = {"summary": dict(summary), "index_lists": dict(index_lists)}
    write_file(path, json.dumps(content, separators=(",", ":")).encode())
    return path


def load_protocol(folder: Path, world: str) -> dict[str, Any] | None:
    """Return the content of a protocol's file; ``None`` if a sweep has none, or a damaged one."""
    try:
        content: dict[str, Any] = json.loads((folder / f"protocol-{world}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return content
