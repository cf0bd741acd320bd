"""Begin a sweep, or take up the one of the same name; nothing heavy is needed to know which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import search_spaces
from orchestrator.options import SweepOptions, local_folder, parse_objective
from orchestrator.records import Objective, SweepRecord
from orchestrator.search.objectives import check_objectives
from orchestrator.search.recipe_paths import changed_files, content_of_paths, with_content
from orchestrator.search.sampler_names import DRAW_ALL, SamplerPlan, check_name
from orchestrator.search.study_files import check_study_files
from orchestrator.store.filesystem import check_storage
from search_spaces.parameters import check_vary
from trainables.errors import ConfigError
from trainables.settings import build

RECORD = "sweep.json"
STORAGE = ("stages", "leases", "scratch", "states", "tensors", "damaged", "sweeps")
SWEEP = (".", "driver", "spool", "spool/files", "models", "tune")
FILES = (RECORD, "study.journal", "study.json", "rungs.json", "spool/entries.jsonl")

if TYPE_CHECKING:
    from orchestrator.search.ladder import Ladder
    from trainables.experiment import Experiment


def folder_of(options: SweepOptions, name: str) -> Path:
    """Return the folder of a sweep: its record, study, models and report."""
    return local_folder(options.storage) / "sweeps" / name


def open_record(options: SweepOptions, base: Experiment) -> SweepRecord:
    """Load the record of a sweep that goes on, or begin one; nothing heavy is needed for it.

    A new record names the objectives that were asked for; the space's own come with its module.

    Raises:
        ConfigError: The name belongs to a sweep of another recipe, space or sampler, or to one
            whose files are damaged or lost; or the space or the sampler does not exist.
    """
    check_name(options.sampler)
    check_storage(options.storage)
    tree = base.model_dump(mode="json")
    name = options.name or f"{options.space.replace(':', '-')}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder = folder_of(options, name)
    _check_layout(local_folder(options.storage), folder)
    record = SweepRecord.load(folder) if (folder / RECORD).exists() else None
    check_study_files(folder, len(record.trials) if record else 0)
    if record is not None:
        _check_same_sweep(record, options, base)
        record.experiment = tree  # an older version may have written other names
        check_objectives(options.objectives)
        # the study tries these recipes again, under new numbers
        record.trials = [t for t in record.trials if t.state != "RUNNING"]
        return record
    vary = search_spaces.load(options.space)
    if ":" in options.space:
        check_vary(vary, base, options.space)
    record = SweepRecord(
        name=name,
        space=options.space,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        experiment=tree,
        objectives=list(options.objectives),
        sampler=options.sampler,
        environment={},
    )
    check_objectives(
        objectives_of(options, record),
        closed=not base.data.novel_classes,
        service=base.data.world == "service",
    )
    return record


def _check_same_sweep(record: SweepRecord, options: SweepOptions, base: Experiment) -> None:
    """Refuse a name that belongs to another sweep."""
    if not _same_recipe(record, base) or record.space != options.space:
        raise ConfigError(
            f"sweep '{record.name}' exists with another recipe or space ({record.space}); "
            "give a new --name, or the recipe and space it was started with"
        )
    if record.sampler != options.sampler:
        raise ConfigError(
            f"sweep '{record.name}' was started with --sampler {record.sampler}, now it is "
            f"{options.sampler}; give a new --name, or the sampler it was started with"
        )


def _check_layout(root: Path, folder: Path) -> None:
    """Refuse a storage in which files are where folders belong, or the other way round.

    Raises:
        ConfigError: With the first such path.
    """
    for path in [*(root / name for name in STORAGE), *(folder / name for name in SWEEP)]:
        if os.path.lexists(path) and not path.is_dir():
            raise ConfigError(f"{path} is not a folder; move it away, or give another --storage")
    for path in (root / "stages").glob("*"):
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder; move it away, or give another --storage")
    for path in (folder / name for name in FILES):
        if os.path.lexists(path) and not path.is_file():
            raise ConfigError(f"{path} is not a file; move it away, or give a new --name")


def _same_recipe(record: SweepRecord, base: Experiment) -> bool:
    """Say whether a sweep's recipe is the base.

    Settings and methods may have former names in the record, and data may be where another path
    leads to: what files and folders hold counts.

    Raises:
        ConfigError: It is, but a file that it names changed since the sweep began.
    """
    try:
        stored = build(type(base), record.experiment)
    except ConfigError:  # it has a setting that no longer exists
        return False
    if stored == base or not record.content:  # no path, or a record of an earlier version
        _check_files(record, base)
        return stored == base
    return with_content(stored, record.content) == with_content(base, content_of_paths(base))


def _check_files(record: SweepRecord, base: Experiment) -> None:
    """Refuse files with another content than at the start; `check_same_images` sees to the data.

    Raises:
        ConfigError: A file changed, such as a checkpoint.
    """
    changed = changed_files(base, record.content)
    if changed:
        raise ConfigError(
            f"sweep '{record.name}' was started with another content of {', '.join(changed)}; give "
            "a new --name, because the trials could not be compared"
        )


def open_ladder(options: SweepOptions, base: Experiment, record: SweepRecord) -> Ladder | None:
    """Return the ladder of a sweep that climbs one.

    Raises:
        ConfigError: It leads nowhere.
    """
    if options.scheduler != "ladder":
        return None
    from orchestrator.search.ladder import Ladder

    return Ladder(base, objectives_of(options, record), num_trials=options.trials)


def open_sampler(options: SweepOptions, base: Experiment, record: SweepRecord) -> SamplerPlan:
    """Return a sweep's sampler; what it leaves to TPE is written to the record.

    Raises:
        ConfigError: It cannot search this space.
    """
    plan = SamplerPlan(options.sampler)
    if options.sampler not in DRAW_ALL:
        from orchestrator.search.samplers import plan_sampler

        plan = plan_sampler(
            options.sampler,
            space=record.space,
            base=base,
            objectives=[o.metric for o in objectives_of(options, record)],
        )
    record.left_to_tpe = [*plan.left]
    return plan


def objectives_of(options: SweepOptions, record: SweepRecord) -> Sequence[Objective]:
    """Return what a sweep compares by: what was asked for, else the space's own."""
    found = options.objectives or record.objectives
    return found or [parse_objective(text) for text in search_spaces.objectives(record.space)]
