"""Record of a fit: the JSON document ``fit.json`` that screen, report and ``--json`` show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from orchestrator.locking.sweep_lock import write_file
from orchestrator.records import Interval, PromotionRecord, Record, fault_of

FILE = "fit.json"
OUT_OF_FOLD, OWN_VALIDATION = "out-of-fold", "on val/"
FEW_TEST = 200  # test images, below which answers out of fold say more


class ClassCount(Record):
    """A class with its images in each part."""

    name: str
    train: int
    val: int = 0
    test: int

    @property
    def images(self) -> int:
        """All images of the class."""
        return self.train + self.val + self.test


class Photos(Record):
    """What the look at the folder found."""

    folder: str
    images: int  # readable, with a class, without copies
    train: int
    val: int = 0
    test: int
    shots: int  # groups of images that stay together
    own_parts: list[str] = Field(default_factory=list)
    classes: list[ClassCount]
    smallest: tuple[int, int] | None = None  # width and height in pixels
    largest: tuple[int, int] | None = None
    left_out: dict[str, list[str]] = Field(default_factory=dict)  # reason to files
    loose: list[str] = Field(default_factory=list)  # images of no class
    remarks: list[str] = Field(default_factory=list)


class Search(Record):
    """What was tried, and what was chosen by the answers to which images."""

    variants: int
    metric: str
    best: str  # in words
    honest: Interval
    base: str
    gain: Interval  # over the base, paired by group
    served: str
    serves_base: bool
    classes_not_judged: list[str] = Field(default_factory=list)
    kept_out: int = 0  # images that judged in place of answers out of fold: the trunk was trained
    seconds: float = 0.0
    judged_by: str = OUT_OF_FOLD  # or OWN_VALIDATION
    left_out: int = 0  # variants for which there was no time


class Deeper(Record):
    """A backbone that was fine-tuned beside the frozen one, and which of the two serves."""

    epochs: int
    kept_out: int  # images that the fine-tuning did not see, by which the two are compared
    gain: Interval  # over the frozen backbone, paired by group
    serves: bool
    frozen: str  # the classifier on the frozen backbone, in words
    new: list[str]  # classes of the fold that plays new
    frozen_noticed: float | None = None  # share of their images that the frozen one noticed
    not_judged: list[str] = Field(default_factory=list)  # classes without an image kept out


class LooseCluster(Record):
    """Images that are called unknown and look alike among themselves."""

    nearest: str  # the known class that most of them are nearest to
    files: list[str]  # the most typical one first


class Loose(Record):
    """What images of no class look like to the model; nobody labelled them, and none trains."""

    key: str  # of the model and of the files
    images: int
    asked: int  # all of them, or every n-th
    known: dict[str, int]  # class to images that are taken for it, largest first
    unknown: int  # of which `clusters` and `alone` are all
    unreadable: int = 0
    known_files: dict[str, list[str]] = Field(default_factory=dict)  # the surest first
    clusters: list[LooseCluster] = Field(default_factory=list)  # the largest first
    alone: list[str] = Field(default_factory=list)  # called unknown, of no cluster
    unreadable_files: list[str] = Field(default_factory=list)


class Figures(Record):
    """How good the model that answers is; of which images, ``origin`` says."""

    origin: str  # "test" or "out of fold"
    balanced: Interval
    natural: Interval  # classes weighted by their share of the photos
    bands: dict[str, Interval]
    false_alarm: Interval | None = None
    false_alarm_bands: dict[str, Interval] = Field(default_factory=dict)
    by_class: dict[str, Interval]
    images: int
    out_of_fold: Interval | None = None  # balanced accuracy of the training images
    validation: Interval | None = None  # balanced accuracy of the folder's own val/
    # that less `out_of_fold`, of the classes that both have
    validation_gap: Interval | None = None
    out_of_fold_classes: list[str] = Field(default_factory=list)


class FitRecord(Record):
    """One fit: the photos, the search, the figures of the served model, and the verdict."""

    model: str
    storage: str
    key: str  # of what was asked for and of all images
    backbone: str
    pretrained_on: str
    image_size: int
    met_classes: list[str] = Field(default_factory=list)
    photos: Photos
    search: Search
    figures: Figures
    expect: str = "natural"  # how often classes are expected, see `FitOptions`
    rehearsal: dict[str, Any] = Field(default_factory=dict)  # `Rehearsal.to_json`
    recipe: dict[str, Any]
    promotion: PromotionRecord | None = None
    deeper: Deeper | None = None
    loose: Loose | None = None
    asked: str = ""  # the command, see `FitOptions.words`
    deeper_seconds: float = 0.0  # that a fine-tuning would take here; 0: there can be none
    seconds: float = 0.0
    report: str = ""
    suspects: dict[str, int] = Field(default_factory=dict)  # part to labels that may be wrong
    suspects_file: str = ""  # their table, if there are any
    not_doubted: list[str] = Field(default_factory=list)  # classes whose labels can't be doubted
    started: str = ""  # ISO 8601, UTC

    def from_here(self, storage: str, folder: Path) -> FitRecord:
        """Return the record with storage and files as they are named now, in the working folder.

        Args:
            storage: What the storage is called now.
            folder: Folder of the model.
        """
        names = ("report", "suspects_file")
        given = {name: Path(getattr(self, name)).name for name in names if getattr(self, name)}
        files = {name: shown(folder / file) for name, file in given.items()}
        return self.model_copy(update={"storage": storage, **files})

    def save(self, folder: Path) -> Path:
        """Write ``fit.json`` in one step and return its path."""
        target = folder / FILE
        write_file(target, self.model_dump_json(indent=1).encode())
        return target


def load_fit(folder: Path) -> FitRecord | None:
    """Return the record of a model's last fit; ``None`` if there is none that can be read.

    A damaged record costs nothing but time: all that it tells is computed from stored results.
    """
    try:
        return FitRecord.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError) as error:
        import logging

        reason = fault_of(error)
        logging.getLogger(__name__).warning("%s is not read: %s", folder / FILE, reason)
        return None


def shown(path: Path) -> str:
    """Return a path from the working folder, where it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
