"""Begin a sweep, or take up the one of the same name; nothing heavy is needed to know which."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import search_spaces
from orchestrator.options import SweepOptions, local_folder, parse_objective
from orchestrator.records import SweepRecord
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.ladder import Ladder
    from trainables.experiment import Experiment


def folder_of(options: SweepOptions, name: str) -> Path:
    """Return the folder of a sweep: its record, study, models and report."""
    return local_folder(options.storage) / "sweeps" / name


def open_record(options: SweepOptions, base: Experiment) -> SweepRecord:
    """Load the record of a sweep that goes on, or begin one; nothing heavy is needed for it.

    A new record names the objectives that were asked for; the study's own come with its module.

    Raises:
        ConfigError: The name belongs to a sweep of another recipe or study, or the study does not
            exist.
    """
    tree = base.model_dump(mode="json")
    name = options.name or f"{options.study}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder = folder_of(options, name)
    if (folder / "sweep.json").is_file():
        record = SweepRecord.load(folder)
        if record.experiment != tree or record.study != options.study:
            raise ConfigError(
                f"sweep '{name}' exists with another recipe or study ({record.study}); "
                "give a new --name, or the recipe and study it was started with"
            )
        # the study tries these recipes again, under new numbers
        record.trials = [t for t in record.trials if t.state != "RUNNING"]
        return record
    search_spaces.resolve(options.study)
    return SweepRecord(
        name=name,
        study=options.study,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        experiment=tree,
        objectives=list(options.objectives),
        environment={},
    )


def open_ladder(options: SweepOptions, base: Experiment, record: SweepRecord) -> Ladder | None:
    """Return the ladder of a sweep that climbs one.

    Raises:
        ConfigError: It leads nowhere.
    """
    if options.scheduler != "ladder":
        return None
    from orchestrator.ladder import Ladder

    objectives = options.objectives or record.objectives
    if not objectives:
        objectives = [parse_objective(text) for text in search_spaces.objectives(record.study)]
    return Ladder(base, objectives, num_trials=options.trials)


def is_complete(record: SweepRecord, options: SweepOptions) -> bool:
    """Say whether all that was asked for is in the record: trials, finalists on seeds, verdict."""
    trials = sum(trial.state in ("COMPLETE", "PRUNED") for trial in record.trials)
    finalists = [len(finalist.seeds) for finalist in record.finalists]
    return (
        trials >= options.trials
        and len(finalists) >= options.finalists
        and all(seeds == options.seeds for seeds in finalists)
        and (record.promotion is not None or not options.promote)
    )
