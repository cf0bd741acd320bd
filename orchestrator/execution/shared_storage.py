"""Check before the first trial that every host of a cluster sees the storage."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

from trainables.errors import ConfigError

APPEARS_SECONDS = 5.0  # in which a network file system shows a new file to the other hosts
ANSWER_SECONDS = 120.0  # a busy host needs a while to start a process


def check_storage_is_shared(storage: str, *, appears_seconds: float = APPEARS_SECONDS) -> None:
    """Refuse a local folder that a host of the running Ray cluster does not see or can't write to.

    A cluster of one host, and a storage with a URI, are not asked. A host that does not answer in
    two minutes is not judged.

    Args:
        storage: Storage of the stage results, a local path made absolute.
        appears_seconds: How long a host waits until it sees a new file.

    Raises:
        ConfigError: One line that names the hosts.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    hosts = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    if "://" in storage or len(hosts) < 2:
        return
    folder = Path(storage)
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    asked: dict[Any, str] = {}
    try:
        for identifier, node in hosts.items():
            place = NodeAffinitySchedulingStrategy(identifier, soft=False)
            task = ray.remote(num_cpus=0, max_retries=0)(can_use).options(scheduling_strategy=place)
            asked[task.remote(str(mark), appears_seconds)] = _name(node)
        ready, _ = ray.wait([*asked], num_returns=len(asked), timeout=ANSWER_SECONDS)
        blind = sorted({asked[answer] for answer in ready if not _answer(answer)})
    finally:
        mark.unlink(missing_ok=True)
    if blind:
        raise ConfigError(
            f"--storage: {', '.join(blind)} can't see or can't write to '{storage}'; give a folder "
            "that all hosts share at the same path, or a URI such as s3://BUCKET/PATH"
        )


def can_use(mark: str, seconds: float) -> bool:
    """Say whether this host sees a file within some seconds, and may write beside it."""
    end = time.monotonic() + seconds
    while not os.path.exists(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return os.access(os.path.dirname(mark), os.W_OK)


def _answer(reference: Any) -> bool:
    """Return a host's answer; a host that is lost meanwhile is not judged."""
    import ray
    from ray.exceptions import RayError

    try:
        return bool(ray.get(reference))
    except RayError:
        return True


def _name(node: dict[str, Any]) -> str:
    """Return a host's name and address."""
    name, address = str(node["NodeManagerHostname"]), str(node["NodeManagerAddress"])
    return f"host {address}" if name == address else f"host {name} ({address})"
