"""What a study is made of, frozen at its first trial: a resume goes on with the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from orchestrator.locking.sweep_lock import write_file
from orchestrator.records import Objective, Record, fault_of
from orchestrator.search.recipe_paths import recipe_digest
from trainables.errors import ConfigError
from trainables.experiment import Experiment

FILE = "study.json"
FORMAT_VERSION = 1


class StudyManifest(Record):
    """``study.json`` in a sweep's folder.

    ``choices`` holds the values of each categorical parameter as they were when it was first asked
    for: Optuna refuses a categorical whose choices change, so a method file that is added later
    joins new studies only. ``ladder`` holds the epochs of its rungs, nothing without one. A study
    from before ``sampler`` was written goes on with ``tpe``, drawn by Optuna's implementation now.
    """

    format_version: int = FORMAT_VERSION
    name: str
    space: str
    experiment: str  # digest of the base experiment, see `recipe_digest`
    objectives: list[Objective]
    seed: int
    ladder: list[int] = Field(default_factory=list)
    sampler: str = "tpe"
    choices: dict[str, list[Any]] = Field(default_factory=dict)

    @classmethod
    def freeze(
        cls,
        folder: Path,
        *,
        name: str,
        space: str,
        base: Experiment,
        objectives: Sequence[Objective],
        seed: int,
        ladder: Sequence[int] = (),
        sampler: str = "tpe",
    ) -> StudyManifest:
        """Return the study's manifest, written now or at its first start.

        The seed of the first start stays: a study draws from one sequence.

        Raises:
            ConfigError: The folder holds a study of something else.
        """
        wanted = cls(
            name=name,
            space=space,
            experiment=recipe_digest(base),
            objectives=[*objectives],
            seed=seed,
            ladder=[*ladder],
            sampler=sampler,
        )
        if not (folder / FILE).exists():
            wanted.save(folder)
            return wanted
        stored = cls.load(folder)
        if stored.experiment == base.digest():  # an earlier version digested paths, not contents
            wanted.experiment = stored.experiment
        for field in ("name", "space", "objectives", "experiment", "ladder", "sampler"):
            was, now = getattr(stored, field), getattr(wanted, field)
            if was != now:
                raise ConfigError(
                    f"sweep '{folder.name}' was started with {field} {_text(was)}, now it is "
                    f"{_text(now)}; give a new --name, or what it was started with"
                )
        return stored

    @classmethod
    def load(cls, folder: Path) -> StudyManifest:
        """Read the manifest.

        Raises:
            ConfigError: It is damaged, or a newer version wrote it.
        """
        try:
            manifest = cls.model_validate_json((folder / FILE).read_bytes())
        except (ValidationError, OSError) as error:
            raise ConfigError(f"{folder / FILE} is damaged: {fault_of(error)}") from None
        if manifest.format_version > FORMAT_VERSION:
            raise ConfigError(f"{folder / FILE} was written by a newer version; use that one")
        return manifest

    def save(self, folder: Path) -> None:
        """Write the manifest atomically."""
        write_file(folder / FILE, self.model_dump_json(indent=1).encode())


def _text(value: object) -> str:
    """Return a value as a reader would write it."""
    if isinstance(value, list):
        texts = (f"{o.metric}:{o.mode}" if isinstance(o, Objective) else str(o) for o in value)
        return ", ".join(texts) or "none"
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
