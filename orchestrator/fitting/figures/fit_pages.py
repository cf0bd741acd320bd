"""The page of a fit, with pictures, and beside it the table of labels that may be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.fitting.fit_record import OUT_OF_FOLD, shown
from orchestrator.fitting.screen import last_screen
from orchestrator.locking.sweep_lock import write_file
from orchestrator.report.fit_page import ClassRow, Heading, write_fit_page
from orchestrator.report.photo_findings import Answers, Suspect, classes_told, suspects_csv
from orchestrator.report.photo_sections import answer_sections, suspect_section, suspects_of

if TYPE_CHECKING:
    from orchestrator.fitting.figures.photo_answers import PhotoAnswers
    from orchestrator.fitting.fit_record import FitRecord
    from trainables.data.shots.photo_set import PhotoSet

REPORT = "report.html"


def write_findings(
    record: FitRecord, seen: PhotoAnswers, images: PhotoSet, folder: Path
) -> FitRecord:
    """Write the page, which opens with the last screen, and the table of suspect labels.

    Each version has a table of its own: the one that was corrected must not be written over. It
    holds what was corrected before too. Without suspects there is none.

    Args:
        record: The fit.
        seen: What the model answers.
        images: The photos.
        folder: Folder of the model.

    Returns:
        The record with what the page shows: where it is, suspects and where their table is.
    """
    suspects = suspects_of(seen.beside.answers, seen.test.answers)
    number = record.promotion.version if record.promotion else None
    table = folder / f"suspects_{number or 'refused'}.csv"
    found = {part: len(labels) for part, labels in suspects.items()}
    if any(found.values()):
        write_file(table, _table(suspects, images).encode())
    record = record.model_copy(
        update={
            "report": shown(folder / REPORT),
            "suspects": found,
            "not_doubted": not_doubted(seen.beside.answers, seen.test.answers),
            "suspects_file": shown(table) if any(found.values()) else "",
        }
    )
    answers, neighbors, what = seen.shown()
    sections = [
        *answer_sections(answers, neighbors, what),
        suspect_section(suspects, table.name),
    ]
    counts = {count.name: count for count in record.photos.classes}
    beside = "kept out of the training" if record.search.kept_out else OUT_OF_FOLD
    write_fit_page(
        folder / REPORT,
        Heading(
            f"{record.model} version {number}" if number else record.model,
            record.photos.folder,
            record.backbone,
            record.started,
        ),
        screen=last_screen(record, None)[1:],
        sections=sections,
        classes=[
            ClassRow(
                name,
                counts[name].train,
                counts[name].test,
                rate,
                beside if name in record.figures.out_of_fold_classes else "",
            )
            for name, rate in record.figures.by_class.items()
        ],
        gates=record.promotion.gates if record.promotion else [],
        left_out=record.photos.left_out,
        recipe=record.recipe,
    )
    return record


def not_doubted(*parts: Answers) -> list[str]:
    """Return the classes with images whose labels the model can't doubt in one of the parts."""
    found = set()
    for answers in parts:
        if len(answers.labels):
            present = set(answers.labels.tolist())
            untold = present - set(np.flatnonzero(classes_told(answers)).tolist())
            found |= {answers.class_names[label] for label in untold}
    return sorted(found)


def _table(suspects: Mapping[str, Sequence[Suspect]], images: PhotoSet) -> str:
    """Return the table, whose paths are below the folder of photos where they can be."""

    def below(file: str | Path) -> str:
        path = Path(file)
        here = path.is_relative_to(images.folder)
        return str(path.relative_to(images.folder)) if here else str(path)

    rows = {
        part: [suspect._replace(file=below(suspect.file)) for suspect in found]
        for part, found in suspects.items()
    }
    return suspects_csv(rows, {below(file): label for file, label in images.corrected.items()})
