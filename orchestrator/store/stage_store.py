"""Stage store, in which a stage's result is computed by one process and reused by all others.

The layout of a storage (a path, ``file://``, or a ``pyarrow.fs`` URI) is::

    stages/<stage>/<key>/<artifact>/{artifact.json,tensors.safetensors}
    stages/<stage>/<key>/manifest.json     digests, checksums, references, time, reports
    tensors/<digest>                       tensors of 4 KiB and more, once by content
    features/<trunk>/<digest>              features of frozen trunks, see `feature_shards`
    states/   leases/   scratch/   damaged/

A result becomes visible in one step: its folder is renamed, or on an object store its manifest is
written last. Its shared tensors are there before.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from orchestrator.store.actor_leases import DeskLeases
from orchestrator.store.feature_shards import FeatureShards
from orchestrator.store.filesystem import StorageBackend, open_backend, scratch_root
from orchestrator.store.leases import HEARTBEAT_SECONDS, STALE_SECONDS, FileLeases, Lease, Leases
from orchestrator.store.manifest import Computed, checksum, read_manifest, write_result
from orchestrator.store.result_cache import result_cache_of
from orchestrator.store.shared_tensors import DamagedError, fetch, is_damaged, path_of
from trainables.artifacts import load_artifact

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.02
LONGEST_WAIT_SECONDS = 0.5


class Stored(NamedTuple):
    """A stage's result in the store; its tensors are shared and must not be written to.

    ``digests`` are the content digests of the artifacts. ``seconds`` is the computing time, also of
    a reused result. ``continued`` is the number of epochs that a shorter training had computed.
    """

    artifacts: dict[str, Any]
    digests: dict[str, str]
    history: list[dict[str, float]]
    seconds: float
    reused: bool
    key: str
    continued: int = 0


class Stats(NamedTuple):
    """Numbers of results that one `StageStore` returned, by origin."""

    asked: int = 0
    computed: int = 0
    reused: int = 0
    from_memory: int = 0  # reused results that were in this process's cache
    waited: int = 0  # reused results that another process was computing
    damaged: int = 0
    seconds_computed: float = 0.0
    seconds_saved: float = 0.0


Compute = Callable[[Path], Computed]


class StageStore:
    """Content-keyed results of stages on one storage.

    Args:
        storage: A path, ``file://``, or a URI that ``pyarrow.fs`` knows.
        filesystem: A ``pyarrow.fs.FileSystem`` in which ``storage`` is a path, instead of a URI.
        heartbeat_seconds: Interval of the heartbeats of a lease's owner.
        stale_seconds: Time without heartbeats after which an owner on another host counts as dead.

    Raises:
        ConfigError: No file system knows the URI.
    """

    def __init__(
        self,
        storage: str,
        *,
        filesystem: Any = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.backend: StorageBackend = open_backend(storage, filesystem)
        self.scratch = scratch_root(self.backend)
        times = {"heartbeat_seconds": heartbeat_seconds, "stale_seconds": stale_seconds}
        self._leases: Leases = (
            FileLeases(Path(self.backend.uri) / "leases", **times)
            if self.backend.local
            else DeskLeases(self.backend.uri, **times)
        )
        self.features = FeatureShards(self.backend, self._leases)
        self._cache = result_cache_of(self.backend.uri)
        self._stats = Stats()

    def stats(self) -> Stats:
        """Return the statistics of this store object."""
        return self._stats

    def get_or_compute(
        self, stage: str, key: str, outputs: Mapping[str, type], compute: Compute
    ) -> Stored:
        """Return a stage's result from the cache or the storage, or compute and store it.

        If several processes request one key, one of them computes and the others wait. If the
        computing process fails or dies, a waiting process computes.

        Args:
            stage: Name of the stage, e.g. ``classify``.
            key: Digest of all inputs of the result.
            outputs: Class of each artifact by name.
            compute: Computes the result. Its argument is a folder for checkpoints, which is the
                same after an interruption and is removed when the result is stored.

        Raises:
            ValueError: A name cannot be a folder name, or ``compute`` returned other artifacts.
        """
        folder = _folder(stage, key)
        self._count(asked=1)
        wait, waited = FIRST_WAIT_SECONDS, False
        while True:
            found = self._find(folder, key, outputs)
            if isinstance(found, Stored):
                self._count(reused=1, waited=int(waited), seconds_saved=found.seconds)
                return found
            lease = self._leases.try_acquire(folder.removeprefix("stages/"))
            if lease is not None:
                result = self._under_lease(lease, stage, key, outputs, compute)
                if not result.reused:
                    self._count(computed=1, seconds_computed=result.seconds)
                else:
                    self._count(reused=1, waited=int(waited), seconds_saved=result.seconds)
                return result
            waited = True
            time.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT_SECONDS)

    def find(self, stage: str, key: str, outputs: Mapping[str, type]) -> Stored | None:
        """Return a stage's result if it is stored and intact, without waiting or computing."""
        found = self._find(_folder(stage, key), key, outputs)
        return found if isinstance(found, Stored) else None

    def _under_lease(
        self, lease: Lease, stage: str, key: str, outputs: Mapping[str, type], compute: Compute
    ) -> Stored:
        """Look for the result once more, then compute it."""
        try:
            found = self._look_again(stage, key, outputs)
            if found is not None:
                return found
            start = time.perf_counter()
            computed = compute(self._own_folder(stage, key))
            return self._publish(stage, key, outputs, computed, time.perf_counter() - start)
        finally:  # also if the trial is stopped, so that another process can compute
            lease.release()

    def _look_again(self, stage: str, key: str, outputs: Mapping[str, type]) -> Stored | None:
        """Return a result that the lease's last owner has just stored; move away a damaged one."""
        folder = _folder(stage, key)
        found = self._find(folder, key, outputs)
        if isinstance(found, Stored):
            return found
        if found is not None:
            self._set_aside(folder, found)
        elif self.backend.has(folder):
            self._set_aside(folder, DamagedError("the manifest is missing"))
        return None

    def _own_folder(self, stage: str, key: str) -> Path:
        """Return the folder for the checkpoints of a computation."""
        scratch = self.scratch / stage / key
        scratch.mkdir(parents=True, exist_ok=True)
        return scratch

    def _publish(
        self,
        stage: str,
        key: str,
        outputs: Mapping[str, type],
        computed: Computed,
        seconds: float,
    ) -> Stored:
        """Store a result and return it as read back, so that all processes get equal results."""
        _check(stage, computed.artifacts, outputs)
        folder = _folder(stage, key)
        self._write(folder, stage, key, computed, seconds)
        shutil.rmtree(self.scratch / stage / key, ignore_errors=True)
        stored = self._find(folder, key, outputs)
        if isinstance(stored, DamagedError):  # a shared tensor that was stored earlier is damaged
            self._set_aside(folder, stored)
            self._write(folder, stage, key, computed, seconds)
            stored = self._find(folder, key, outputs)
        if not isinstance(stored, Stored):
            raise OSError(f"{self.backend.uri}/{folder} cannot be read back: {stored or 'missing'}")
        return stored._replace(reused=False)

    def _write(self, folder: str, stage: str, key: str, computed: Computed, seconds: float) -> None:
        """Write a result in one step, its shared tensors before it."""
        draft = self.backend.draft(folder, uuid.uuid4().hex)
        try:
            write_result(draft, stage, key, computed, seconds, self.backend.put)
            self.backend.publish(draft, folder, last="manifest.json")
        except (FileExistsError, FileNotFoundError):  # another process took over the lease
            logger.warning("another process has stored %s meanwhile; using its result", folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _find(
        self, folder: str, key: str, outputs: Mapping[str, type]
    ) -> Stored | DamagedError | None:
        """Return a stored result, the error of a damaged result, or ``None`` without a result."""
        remembered: Stored | None = self._cache.get(folder)
        if remembered is not None and remembered.artifacts.keys() == outputs.keys():
            self._count(from_memory=1)
            return _own(remembered)
        text = self.backend.read(f"{folder}/manifest.json")
        if text is None:
            return None
        try:
            stored = self._load(folder, key, outputs, read_manifest(text))
        except DamagedError as damage:
            return damage
        self._cache.put(folder, stored)
        return _own(stored)

    def _load(
        self, folder: str, key: str, outputs: Mapping[str, type], manifest: dict[str, Any]
    ) -> Stored:
        """Verify the checksum of every file and read the artifacts."""
        missing = outputs.keys() - manifest["artifacts"].keys()
        if missing:
            raise DamagedError(f"the result lacks {', '.join(sorted(missing))}")
        with self.backend.fetched(folder, manifest["files"]) as local:
            for name, expected in manifest["files"].items():
                if checksum(local / name) != expected:
                    raise DamagedError(f"{name} does not match its checksum")
            try:
                artifacts: dict[str, Any] = {
                    name: load_artifact(cls, local / name, self._shared(manifest, name))
                    for name, cls in outputs.items()
                }
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DamagedError(f"the result cannot be read: {error}") from error
        return Stored(
            artifacts=artifacts,
            digests={name: manifest["artifacts"][name] for name in outputs},
            history=manifest["history"],
            seconds=manifest["seconds"],
            reused=True,
            key=key,
            continued=manifest.get("continued", 0),
        )

    def _shared(self, manifest: dict[str, Any], artifact: str) -> dict[str, Tensor]:
        """Return the tensors of an artifact that are stored by content."""
        return fetch(self.backend, manifest["tensors"].get(artifact, {}))

    def _set_aside(self, folder: str, damage: DamagedError) -> None:
        """Move a damaged result and its damaged tensors away; the caller holds the result's lease.

        Other results with such a tensor lack it until it is stored again, and are computed again if
        they are asked for before.
        """
        suffix = uuid.uuid4().hex[:8]
        to = f"damaged/{folder.removeprefix('stages/')}-{suffix}"
        logger.warning("%s/%s is damaged (%s); moved to %s", self.backend.uri, folder, damage, to)
        self.backend.set_aside(folder, to)
        for name in damage.tensors:
            if is_damaged(self.backend, name):  # unless another process has replaced it meanwhile
                self.backend.set_aside(path_of(name), f"damaged/{path_of(name)}-{suffix}")
        self._count(damaged=1)

    def _count(self, **more: float) -> None:
        """Add to the statistics."""
        now = self._stats._asdict()
        self._stats = Stats(**{name: now[name] + more.get(name, 0) for name in now})


def _own(stored: Stored) -> Stored:
    """Return a copy of a result that shares only the artifacts."""
    return stored._replace(
        artifacts=dict(stored.artifacts),
        digests=dict(stored.digests),
        history=[dict(row) for row in stored.history],
    )


def _folder(stage: str, key: str) -> str:
    """Return a result's folder; refuse names that could point outside the storage."""
    for name in (stage, key):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(
                f"a stage and its key consist of letters, digits, '_', '.' and '-'; "
                f"received '{name}'"
            )
    return f"stages/{stage}/{key}"


def _check(stage: str, artifacts: Mapping[str, Any], outputs: Mapping[str, type]) -> None:
    """Refuse a computation that returned other artifacts than its ``outputs``."""
    received = {name: type(artifact).__name__ for name, artifact in artifacts.items()}
    wanted = {name: cls.__name__ for name, cls in outputs.items()}
    if received != wanted:
        raise ValueError(f"stage '{stage}' must return {wanted}; received {received}")
