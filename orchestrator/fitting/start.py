"""Begin a fit, or see that nothing changed: for that neither MLflow nor timm is loaded."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.execution.ctrl_c import keep_ctrl_c
from orchestrator.fitting.backbone import FINE_TUNED, SCRATCH, WITHOUT_WEIGHTS, usual_is_away
from orchestrator.fitting.fit_record import FitRecord, load_fit
from orchestrator.fitting.photo_folder import Found, look_at_folder
from orchestrator.fitting.screen import last_screen, photos_lines
from orchestrator.fitting.training.untested import with_untested
from orchestrator.options import folder_of_model, local_folder
from orchestrator.registry.version_lookup import restore_parts
from trainables.data.source_names import PRIOR_FILE
from trainables.errors import ConfigError
from trainables.keys import code_digest, file_digest
from trainables.memory import keep_freed_memory
from trainables.settings import canonical_json

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.progress_lines import Lines

LOCK = "fit.lock"
CODE = (  # by what a fit answers: a new version that chooses in another way fits again
    "trainables.pipeline",
    "trainables.features.rebalancer_search",
    "orchestrator.fitting.recipe",
    "orchestrator.fitting.rehearsing",
    "orchestrator.fitting.trying.choosing",
    "orchestrator.fitting.trying.variants",
)


@keep_ctrl_c()
def fit_photos(options: FitOptions, lines: Lines) -> FitRecord:
    """Fit a model to a folder of photos, show it, and return the record.

    The second fit to unchanged photos returns the record of the first.

    Args:
        options: What was asked for.
        lines: Where everything is shown.

    Raises:
        ConfigError: The photos or the backbone can't be used, or the champion of the model's name
            knows none of their classes.
    """
    keep_freed_memory()  # of a notebook too: features in a third of the time
    folder = folder_of_model(options.storage, options.model_name)
    with _alone(folder, options.model_name):
        return _fit(options, lines, folder)


def _fit(options: FitOptions, lines: Lines, folder: Path) -> FitRecord:
    restored = restore_parts(options.storage, options.model_name)
    if restored:
        lines.say("parts", restored)
    found = look_at_folder(
        options.photos,
        folder,
        groups=options.groups or None,
        labels=options.labels,
        progress=lambda what, done, total: lines.step(what, f"{total:,} files", done, total),
    )
    key, record = fit_key(options, found), load_fit(folder)
    record = record and record.from_here(options.storage, folder)
    stands = record if record is not None and _is_champion(record) else None
    trains = _trains(options, key, stands)
    told = with_untested(
        found.photos, found.images, trained_at=options.false_alarm if trains else None
    )
    found = found._replace(photos=told)
    for line in photos_lines(told):
        lines.say(*line)
    asked = f"{key}{WITHOUT_WEIGHTS}" if trains and not options.backbone else key
    if stands is not None and _is_asked_for(stands, asked, options):
        record = stands
        state = "answers" if record.promotion and record.promotion.promoted else "was refused"
        lines.plain(f"nothing changed since {record.started}: version {_version(record)} {state}")
    else:
        from orchestrator.fitting.job import FitJob
        from orchestrator.registry.shared_images import check_shared_class
        from trainables.lazy import load_deferred

        check_shared_class(options.storage, options.model_name, found.images.photos)
        load_deferred()
        record = FitJob(options, lines, folder).run(found, key)
    record = _with_loose(record, found, lines, folder)
    record = record.model_copy(update={"asked": options.words})
    example = _example(found, options.photos)
    for text in last_screen(record, example):
        lines.plain(text)
    return record


def _with_loose(record: FitRecord, found: Found, lines: Lines, folder: Path) -> FitRecord:
    """Return the record with what images of no class look like, which is said and saved."""
    from orchestrator.fitting.figures.loose_photos import look_at_loose, loose_line

    def progress(done: int, total: int) -> None:
        lines.step("no class", f"{total:,} images", done, total)

    images = found.images
    told = look_at_loose(record, images.loose, images.folder, folder, progress)
    if told != record:
        told.save(folder)
    if told.loose is not None:
        lines.say("no class", loose_line(told.loose))
    return told


@contextmanager
def _alone(folder: Path, model: str) -> Iterator[None]:
    """Refuse a second fit of a model on this machine while one runs.

    Raises:
        ConfigError: One runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another fit of the model '{model}' runs on this storage; wait for it, or give "
                "another --model"
            ) from None
        yield


@keep_ctrl_c()
def show_dry_run(options: FitOptions, lines: Lines) -> None:
    """Show what a fit would do; see `orchestrator.fitting.dry_run`."""
    from orchestrator.fitting.dry_run import show_plan

    show_plan(options, lines, folder_of_model(options.storage, options.model_name))


def fit_key(options: FitOptions, found: Found) -> str:
    """Return a digest of what was asked for, of all images, of weights, and of the code.

    With ``--deeper`` it is the same: the fit with the frozen backbone comes first.
    """
    file = Path(options.backbone.rpartition("=")[2] or ".").expanduser()
    weights = file_digest(str(file)) if options.backbone and file.exists() else ""
    expected = file_digest(options.expect) if options.prior.startswith(PRIOR_FILE) else ""
    asked = options.model_dump(mode="json", exclude={"photos", "storage", "deeper"})
    parts = [asked, options.model_name, found.digest, weights, expected, code_digest(CODE)]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _trains(options: FitOptions, key: str, stands: FitRecord | None) -> bool:
    """Say whether a network is trained from scratch: asked for, or for want of weights now.

    Where a fit with weights stands, there is nothing to train when these are gone.
    """
    if options.backbone:
        return options.backbone == SCRATCH
    return (stands is None or stands.key.removesuffix(FINE_TUNED) != key) and usual_is_away()


def _is_asked_for(record: FitRecord, key: str, options: FitOptions) -> bool:
    """Say whether a fit is the one that a key and ``--deeper`` ask for."""
    if options.deeper:
        return record.deeper is not None and record.key in (key, f"{key}{FINE_TUNED}")
    return record.key == key


def _is_champion(record: FitRecord) -> bool:
    """Say whether what a fit decided still stands, without importing MLflow."""
    from orchestrator.registry.version_lookup import find_version
    from orchestrator.tracking.mlflow_client import tracking_uri

    promotion = record.promotion
    if promotion is None or promotion.version is None:
        return False
    uri = tracking_uri(None, local_folder(record.storage))
    wanted = "champion" if promotion.promoted else promotion.version
    found = find_version(uri, record.model, wanted)
    return found is not None and found.number == promotion.version


def _version(record: FitRecord) -> str | None:
    return record.promotion.version if record.promotion else None


def _example(found: Found, photos: Path) -> Path:
    """Return an image as the user's own words name it, for a command that can be run."""
    first = next((p for p in found.images.photos if p.part == "test"), found.images.photos[0])
    if not first.file.is_relative_to(found.images.folder):  # a table lists files anywhere
        return first.file
    return photos / first.file.relative_to(found.images.folder)
