"""Stored states of trainings that ended early, from which a longer training resumes.

A training that ends early (``training.until``) stores its state::

    states/<stage>/<key of the whole training>/<epochs>/    checkpoint, manifest.json

A training with the same settings, inputs, seed and code, but more epochs, resumes from the longest
state that does not exceed these epochs. Its result equals that of an uninterrupted training bit by
bit.

A longer state of the same training replaces a shorter one, and the result of the whole training
replaces all its states. At the end of a sweep its remaining states are deleted (`discard_states`).
No result depends on a state: without the state, its epochs are trained again.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.store.filesystem import StorageBackend
from orchestrator.store.manifest import checksum
from trainables.pipeline import Step, step_key, whole
from trainables.training.checkpoints import newest_epoch

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STAGES = ("pretrain", "classify")  # stages with one training that can resume


class TrainingStates(NamedTuple):
    """Stored states of one training.

    ``folder`` holds the states and is ``None`` for a stage without states. ``until`` is the number
    of epochs after which this training ends, 0 for all. ``result`` is the key of the stage result.
    """

    folder: str | None
    until: int = 0
    result: str = ""

    def resume(self, backend: StorageBackend, scratch: Path) -> int:
        """Copy the longest usable state into a scratch folder that has no longer checkpoint.

        Returns:
            The number of epochs that need not be trained, 0 without a state.
        """
        if self.folder is None:
            return 0
        for epochs in sorted(map(int, backend.names(self.folder)), reverse=True):
            if self.until and epochs > self.until:
                continue
            if epochs <= newest_epoch(
                scratch
            ):  # an interrupted attempt of this training got further
                return epochs
            if _fetch(backend, f"{self.folder}/{epochs:06d}", scratch):
                return epochs
        return 0

    def keep(self, backend: StorageBackend, scratch: Path) -> None:
        """Store the state of a training that ended early and remove the shorter states.

        An existing state of the same length stays. Nothing is stored if the store has the result of
        the whole training.
        """
        if self.folder is None or not self.until or newest_epoch(scratch) != self.until:
            return
        whole_result = self.folder.replace("states/", "stages/", 1)
        folder = f"{self.folder}/{self.until:06d}"
        if any(backend.read(f"{path}/{MANIFEST}") is not None for path in (whole_result, folder)):
            return
        draft = backend.draft(folder, uuid.uuid4().hex)
        for path in scratch.glob(f"*.{self.until:06d}.checkpoint"):
            shutil.copyfile(path, draft / path.name)
        files = {path.name: checksum(path) for path in draft.iterdir()}
        manifest = {"format_version": FORMAT_VERSION, "files": files, "result": self.result}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        try:
            backend.publish(draft, folder, last=MANIFEST)
        except FileExistsError:  # another process took over the lease and was faster
            shutil.rmtree(draft, ignore_errors=True)
        self._remove(backend, below=self.until)

    def end(self, backend: StorageBackend) -> None:
        """Remove all states, after the result of the whole training was stored."""
        if self.folder is not None and not self.until:
            self._remove(backend)

    def _remove(self, backend: StorageBackend, below: float = math.inf) -> None:
        """Remove the states of fewer epochs than ``below``."""
        for name in backend.names(f"{self.folder}"):
            if int(name) < below:
                backend.remove(f"{self.folder}/{name}")


def states_of(step: Step, digests: Mapping[str, str], seed: int) -> TrainingStates:
    """Return the stored states of a step's training.

    Args:
        step: The step.
        digests: Content digest of each of the step's inputs.
        seed: Seed of the run.
    """
    if step.stage not in STAGES:
        return TrainingStates(None)
    settings: Any = step.settings
    return TrainingStates(
        f"states/{step.stage}/{step_key(whole(step), digests, seed)}",
        settings.training.until,
        step_key(step, digests, seed),
    )


def discard_states(
    backend: StorageBackend, results: Iterable[str], *, needed: Iterable[str] = ()
) -> int:
    """Remove the states of trainings that no sweep will resume, and return their number.

    Args:
        backend: The storage.
        results: Keys of stage results whose states are removed.
        needed: Keys of stage results whose states stay.
    """
    discarded = set(results) - set(needed)
    count = 0
    for stage in STAGES:
        for training in backend.names(f"states/{stage}"):
            for name in backend.names(f"states/{stage}/{training}"):
                folder = f"states/{stage}/{training}/{name}"
                text = backend.read(f"{folder}/{MANIFEST}")
                if text is not None and json.loads(text).get("result") in discarded:
                    backend.remove(folder)
                    count += 1
    return count


def _fetch(backend: StorageBackend, folder: str, scratch: Path) -> bool:
    """Copy a state into a scratch folder and return True, or False without a valid state.

    A damaged state is logged and moved away. A state that another process removes meanwhile counts
    as missing.
    """
    text = backend.read(f"{folder}/{MANIFEST}")
    if text is None:  # an incomplete upload
        return False
    files: dict[str, str] = json.loads(text)["files"]
    sound = False
    with suppress(FileNotFoundError), backend.fetched(folder, files) as local:
        sound = all(checksum(local / name) == expected for name, expected in files.items())
        for name in files if sound else ():
            shutil.copyfile(local / name, scratch / name)
    if not sound and backend.read(f"{folder}/{MANIFEST}") is not None:
        logger.warning("%s/%s is damaged; moved away", backend.uri, folder)
        backend.set_aside(folder, f"damaged/{folder}-{uuid.uuid4().hex[:8]}")
    return sound
