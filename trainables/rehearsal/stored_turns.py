"""Finished turns on disk, so that an interrupted rehearsal goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.closed_form.statistics import Samples
from trainables.keys import code_digest, modules_of
from trainables.methods.method import Method
from trainables.rehearsal.outcome import turn_from_plain, turn_to_plain
from trainables.rehearsal.playing import Played
from trainables.rehearsal.turns import Cast
from trainables.settings import canonical_json


class StoredTurns:
    """A folder with one file per turn, named by a digest of all that the turn depends on.

    Args:
        folder: The folder; ``None`` stores nothing.
        digests: Of all images, see `digests_of`: their content counts, their place does not.
        methods: Those that a turn asks, whose settings and code count.
        rest: All else that a turn depends on, as values of JSON.
    """

    def __init__(
        self, folder: Path | None, digests: Sequence[str], methods: Sequence[Method], rest: Any
    ) -> None:
        self.folder = folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        modules = {name for method in methods for name in modules_of(method)}
        self.common = {
            "data": list(digests),
            "methods": [method.dump() for method in methods],
            "code": code_digest(("trainables.rehearsal.rehearse", *sorted(modules))),
            "torch": ".".join(torch.__version__.split(".")[:2]),
            "rest": rest,
        }

    def read(self, cast: Cast) -> list[Played] | None:
        """Return the turns of a cast, or ``None`` if they are not there or not readable."""
        if self.folder is None:
            return None
        try:
            plain = json.loads(self._path(cast).read_text(encoding="utf-8"))
            return [Played(turn_from_plain(each["turn"]), each["called"]) for each in plain]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, cast: Cast, found: list[Played]) -> None:
        """Store the turns of a cast, whole or not at all."""
        if self.folder is None:
            return
        path = self._path(cast)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        plain = [{"turn": turn_to_plain(each.turn), "called": each.called} for each in found]
        draft.write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")
        draft.replace(path)

    def _path(self, cast: Cast) -> Path:
        assert self.folder is not None
        key = canonical_json({**self.common, "new": cast.new, "asked": cast.asked})
        return self.folder / f"turn-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def digests_of(data: Samples) -> list[str]:
    """Return digests of features, labels and groups."""
    return [_digest(part) for part in (data.features, data.labels, data.groups)]


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype}:{tuple(values.shape)}".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
