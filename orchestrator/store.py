"""The stage store: a stage's result is computed once, by whoever asks first, and found by the rest.

Below one storage (a path, ``file://``, or a ``pyarrow.fs`` URI)::

    stages/<stage>/<key>/<artifact>/{artifact.json,tensors.safetensors}
    stages/<stage>/<key>/manifest.json     digests, checksums, time, reports
    states/   leases/   scratch/   damaged/

A result appears all at once: a folder is renamed, or on an object store the manifest comes last.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.filesystem import Place, open_place, scratch_root
from orchestrator.lease_desk import DeskLeases
from orchestrator.leases import HEARTBEAT_SECONDS, STALE_SECONDS, FileLeases, Lease, Leases
from orchestrator.manifest import DamagedError, checksum, read_manifest, write_result
from orchestrator.memory import memory_of
from trainables.artifacts import load_artifact

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.02
LONGEST_WAIT_SECONDS = 0.5


class Computed(NamedTuple):
    """What a stage gave: its artifacts by name, and its reports (``epoch`` numbers them).

    ``continued`` are the epochs that it took over from a shorter training.
    """

    artifacts: Mapping[str, Any]
    history: list[dict[str, float]]
    continued: int = 0


class Stored(NamedTuple):
    """A stage's result as it lies in the store; tensors are shared: read them, never write them.

    ``digests`` are the content digests of the artifacts; ``seconds`` is the computing time, also
    when the result was reused; ``continued`` are the epochs taken over from a shorter training.
    """

    artifacts: dict[str, Any]
    digests: dict[str, str]
    history: list[dict[str, float]]
    seconds: float
    reused: bool
    key: str
    continued: int = 0


class Stats(NamedTuple):
    """What one `StageStore` was asked for, and how it answered."""

    asked: int = 0
    computed: int = 0
    reused: int = 0
    from_memory: int = 0  # of those reused
    waited: int = 0  # of those reused: another one was computing
    damaged: int = 0
    seconds_computed: float = 0.0
    seconds_saved: float = 0.0


Compute = Callable[[Path], Computed]
ComputeSeveral = Callable[[Mapping[str, Path]], Mapping[str, Computed]]


class StageStore:
    """Content-keyed results of stages on one storage.

    Args:
        storage: A path, ``file://``, or a URI that ``pyarrow.fs`` knows.
        filesystem: A ``pyarrow.fs.FileSystem`` in which ``storage`` is a path, instead of a URI.
        heartbeat_seconds: How often a computing owner says that it lives.
        stale_seconds: For how long a silent owner on another host is believed to live.

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
        self.place: Place = open_place(storage, filesystem)
        self.scratch = scratch_root(self.place)
        times = {"heartbeat_seconds": heartbeat_seconds, "stale_seconds": stale_seconds}
        self._leases: Leases = (
            FileLeases(Path(self.place.uri) / "leases", **times)
            if self.place.local
            else DeskLeases(self.place.uri, **times)
        )
        self._memory = memory_of(self.place.uri)
        self._stats = Stats()

    def stats(self) -> Stats:
        """Return what was asked for so far, and how it was answered."""
        return self._stats

    def get_or_compute(
        self, stage: str, key: str, outputs: Mapping[str, type], compute: Compute
    ) -> Stored:
        """Return a stage's result: from memory, from the storage, or computed here and stored.

        Of many processes that ask for one key, one computes and the others wait for it. When it
        fails or dies, the next one computes.

        Args:
            stage: Name of the stage, e.g. ``classify``.
            key: Digest of everything the result is made from.
            outputs: Class of each artifact by name.
            compute: Called with a folder of its own for checkpoints, which it finds again after
                it was interrupted; removed when the result is stored.

        Raises:
            ValueError: A name cannot be a folder, or ``compute`` gave other artifacts.
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

    def fill(
        self,
        stage: str,
        keys: Iterable[str],
        outputs: Mapping[str, type],
        compute: ComputeSeveral,
    ) -> list[str]:
        """Compute several results in one go, ahead of those who will ask; return their keys.

        What is stored, or is being computed by another one, is left out: nobody waits here.

        Args:
            stage: Name of the stage.
            keys: Digests of what the results are made from.
            outputs: Class of each artifact by name.
            compute: Called with the folder of each key that is left (see `get_or_compute`); may
                leave keys out.
        """
        leases: dict[str, Lease] = {}
        try:
            for key in dict.fromkeys(keys):
                lease = self._leases.try_acquire(f"{stage}/{key}")
                if lease is not None:
                    leases[key] = lease
                    if self._look_again(stage, key, outputs) is not None:
                        leases.pop(key).release()
            if not leases:
                return []
            start = time.perf_counter()
            found = compute({key: self._own_folder(stage, key) for key in leases})
            each = (time.perf_counter() - start) / max(1, len(found))
            for key, computed in found.items():
                self._publish(stage, key, outputs, computed, each)
                self._count(computed=1, seconds_computed=each)
            return list(found)
        finally:
            for lease in leases.values():
                lease.release()

    def find(self, stage: str, key: str, outputs: Mapping[str, type]) -> Stored | None:
        """Return a stage's result if it is there and whole; never waits, never computes."""
        found = self._find(_folder(stage, key), key, outputs)
        return found if isinstance(found, Stored) else None

    def _under_lease(
        self, lease: Lease, stage: str, key: str, outputs: Mapping[str, type], compute: Compute
    ) -> Stored:
        """Look once more, then compute."""
        try:
            found = self._look_again(stage, key, outputs)
            if found is not None:
                return found
            start = time.perf_counter()
            computed = compute(self._own_folder(stage, key))
            return self._publish(stage, key, outputs, computed, time.perf_counter() - start)
        finally:  # also when a trial is stopped, by whatever way: the next one takes over
            lease.release()

    def _look_again(self, stage: str, key: str, outputs: Mapping[str, type]) -> Stored | None:
        """Return what the lease's last owner may just have stored; move away what is damaged."""
        folder = _folder(stage, key)
        found = self._find(folder, key, outputs)
        if isinstance(found, Stored):
            return found
        if found is not None:
            self._set_aside(folder, found)
        elif self.place.has(folder):
            self._set_aside(folder, DamagedError("its manifest is missing"))
        return None

    def _own_folder(self, stage: str, key: str) -> Path:
        """Return the folder in which a computation keeps what it needs to go on."""
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
        """Store a result, and read it back: all users get the same."""
        _check(stage, computed.artifacts, outputs)
        folder = _folder(stage, key)
        draft = self.place.draft(folder, uuid.uuid4().hex)
        try:
            write_result(draft, stage, key, computed, seconds)
            self.place.publish(draft, folder, last="manifest.json")
        except (FileExistsError, FileNotFoundError):  # this process was believed to be dead
            logger.warning("%s was stored by another process meanwhile; using that", folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(self.scratch / stage / key, ignore_errors=True)
        stored = self._find(folder, key, outputs)
        if not isinstance(stored, Stored):
            raise OSError(f"{self.place.uri}/{folder} cannot be read back: {stored or 'missing'}")
        return stored._replace(reused=False)

    def _find(
        self, folder: str, key: str, outputs: Mapping[str, type]
    ) -> Stored | DamagedError | None:
        """Return a stored result, what is wrong with it, or ``None``: there is none."""
        remembered: Stored | None = self._memory.get(folder)
        if remembered is not None and remembered.artifacts.keys() == outputs.keys():
            self._count(from_memory=1)
            return _own(remembered)
        text = self.place.read(f"{folder}/manifest.json")
        if text is None:
            return None
        try:
            stored = self._load(folder, key, outputs, read_manifest(text))
        except DamagedError as damage:
            return damage
        self._memory.put(folder, stored)
        return _own(stored)

    def _load(
        self, folder: str, key: str, outputs: Mapping[str, type], manifest: dict[str, Any]
    ) -> Stored:
        """Read the artifacts and compare every file with its checksum."""
        missing = outputs.keys() - manifest["artifacts"].keys()
        if missing:
            raise DamagedError(f"it lacks {', '.join(sorted(missing))}")
        with self.place.fetched(folder, manifest["files"]) as local:
            for name, expected in manifest["files"].items():
                if checksum(local / name) != expected:
                    raise DamagedError(f"{name} does not match its checksum")
            try:
                artifacts: dict[str, Any] = {
                    name: load_artifact(cls, local / name) for name, cls in outputs.items()
                }
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DamagedError(f"it cannot be read: {error}") from error
        return Stored(
            artifacts=artifacts,
            digests={name: manifest["artifacts"][name] for name in outputs},
            history=manifest["history"],
            seconds=manifest["seconds"],
            reused=True,
            key=key,
            continued=manifest.get("continued", 0),
        )

    def _set_aside(self, folder: str, damage: DamagedError) -> None:
        """Move a damaged result away; only the holder of its lease does."""
        to = f"damaged/{folder.removeprefix('stages/')}-{uuid.uuid4().hex[:8]}"
        logger.warning("%s/%s is damaged (%s); moved to %s", self.place.uri, folder, damage, to)
        self.place.set_aside(folder, to)
        self._count(damaged=1)

    def _count(self, **more: float) -> None:
        """Add to the statistics."""
        now = self._stats._asdict()
        self._stats = Stats(**{name: now[name] + more.get(name, 0) for name in now})


def _own(stored: Stored) -> Stored:
    """Return a result whose mappings belong to the caller; only the artifacts are shared."""
    return stored._replace(
        artifacts=dict(stored.artifacts),
        digests=dict(stored.digests),
        history=[dict(row) for row in stored.history],
    )


def _folder(stage: str, key: str) -> str:
    """Return a result's folder; names that could leave the storage are refused."""
    for name in (stage, key):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(
                f"a stage and its key are made of letters, digits, '_', '.' and '-'; "
                f"received '{name}'"
            )
    return f"stages/{stage}/{key}"


def _check(stage: str, artifacts: Mapping[str, Any], outputs: Mapping[str, type]) -> None:
    """Refuse a computation that gave other artifacts than it promised."""
    received = {name: type(artifact).__name__ for name, artifact in artifacts.items()}
    wanted = {name: cls.__name__ for name, cls in outputs.items()}
    if received != wanted:
        raise ValueError(f"stage '{stage}' must give {wanted}; received {received}")
