"""A training goes on from where a shorter one of the same recipe ended: nothing is trained twice.

A training that ends early (``training.until``) leaves its state in the storage::

    states/<stage>/<key of the whole training>/<epochs>/    checkpoint, choices made, manifest.json

Whoever trains longer with the same settings, inputs, seed and code takes the longest state that is
not too long. Its result is the same, bit by bit, as without: a checkpoint says where to go on from.

A state ends when nobody needs it: a longer one of the same training takes its place, the whole
training's result that of all. Those of trainings that were never finished end with their sweep
(`discard_states`). Who misses one trains its epochs again; no result depends on it.
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

from orchestrator.filesystem import Place
from orchestrator.manifest import checksum
from trainables.checkpoints import newest_epoch
from trainables.pipeline import Step, step_key, whole

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STAGES = ("pretrain", "classify")  # with one training, whose end can be put off


class Course(NamedTuple):
    """A training as a part of the whole one: where states lie, and the epochs it ends after.

    ``until`` is 0 for the whole training; ``folder`` is ``None`` for a step of another stage;
    ``result`` is the key of the result of this part.
    """

    folder: str | None
    until: int = 0
    result: str = ""

    def resume(self, place: Place, scratch: Path) -> int:
        """Put the longest fitting state into a stage's scratch folder, unless it is further.

        Returns:
            The epochs that need not be trained; 0 if there is no state.
        """
        if self.folder is None:
            return 0
        for epochs in sorted(map(int, place.names(self.folder)), reverse=True):
            if self.until and epochs > self.until:
                continue
            if epochs <= newest_epoch(scratch):  # an interrupted attempt got further
                return epochs
            if _fetch(place, f"{self.folder}/{epochs:06d}", scratch):
                return epochs
        return 0

    def keep(self, place: Place, scratch: Path) -> None:
        """Store the state of a training that ended early; the first one stays.

        It takes the place of shorter ones. Nothing is stored where the whole training's result is.
        """
        if self.folder is None or not self.until or newest_epoch(scratch) != self.until:
            return
        whole_result = self.folder.replace("states/", "stages/", 1)
        folder = f"{self.folder}/{self.until:06d}"
        if any(place.read(f"{path}/{MANIFEST}") is not None for path in (whole_result, folder)):
            return
        names = [f"*.{self.until:06d}.checkpoint", "*.json"]
        draft = place.draft(folder, uuid.uuid4().hex)
        for path in (path for name in names for path in scratch.glob(name)):
            shutil.copyfile(path, draft / path.name)
        files = {path.name: checksum(path) for path in draft.iterdir()}
        manifest = {"format_version": FORMAT_VERSION, "files": files, "result": self.result}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        try:
            place.publish(draft, folder, last=MANIFEST)
        except FileExistsError:  # this process was believed to be dead, and another one was quicker
            shutil.rmtree(draft, ignore_errors=True)
        self._remove(place, below=self.until)

    def end(self, place: Place) -> None:
        """Remove all states once the whole training's result is stored."""
        if self.folder is not None and not self.until:
            self._remove(place)

    def _remove(self, place: Place, below: float = math.inf) -> None:
        """Remove the states of fewer epochs."""
        for name in place.names(f"{self.folder}"):
            if int(name) < below:
                place.remove(f"{self.folder}/{name}")


def course_of(step: Step, digests: Mapping[str, str], seed: int) -> Course:
    """Return the course that a step's training is on.

    Args:
        step: The step.
        digests: Content digest of each of the step's inputs.
        seed: The run's seed.
    """
    if step.stage not in STAGES:
        return Course(None)
    settings: Any = step.settings
    return Course(
        f"states/{step.stage}/{step_key(whole(step), digests, seed)}",
        settings.training.until,
        step_key(step, digests, seed),
    )


def discard_states(place: Place, results: Iterable[str], *, needed: Iterable[str] = ()) -> int:
    """Remove the states that were left with these results, and return how many.

    Args:
        place: The storage.
        results: Keys of the stage results of trials that nobody will go on from.
        needed: Keys of those that somebody may.
    """
    discarded = set(results) - set(needed)
    count = 0
    for stage in STAGES:
        for course in place.names(f"states/{stage}"):
            for name in place.names(f"states/{stage}/{course}"):
                folder = f"states/{stage}/{course}/{name}"
                text = place.read(f"{folder}/{MANIFEST}")
                if text is not None and json.loads(text).get("result") in discarded:
                    place.remove(folder)
                    count += 1
    return count


def _fetch(place: Place, folder: str, scratch: Path) -> bool:
    """Copy a state into a scratch folder; one that is damaged is logged and moved away.

    One that is removed meanwhile is none.
    """
    text = place.read(f"{folder}/{MANIFEST}")
    if text is None:  # a half upload
        return False
    files: dict[str, str] = json.loads(text)["files"]
    sound = False
    with suppress(FileNotFoundError), place.fetched(folder, files) as local:
        sound = all(checksum(local / name) == expected for name, expected in files.items())
        for name in files if sound else ():
            shutil.copyfile(local / name, scratch / name)
    if not sound and place.read(f"{folder}/{MANIFEST}") is not None:
        logger.warning("%s/%s is damaged; moved away", place.uri, folder)
        place.set_aside(folder, f"damaged/{folder}-{uuid.uuid4().hex[:8]}")
    return sound
