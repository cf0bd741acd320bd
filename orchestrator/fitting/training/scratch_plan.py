"""What a fit from scratch will train, and how long that takes here; nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from orchestrator.fitting.threshold_images import require_threshold
from orchestrator.fitting.training.kept_out import keep_out
from orchestrator.fitting.training.one_fold import classes_of_fold, images_of_fold, why_not
from orchestrator.fitting.training.pace import seconds_per_image
from orchestrator.fitting.training.scratch import epochs_for, recipe_from_scratch, size_for

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.photo_folder import Found
    from trainables.data.shots.photo_set import PhotoSet


class ScratchPlan(NamedTuple):
    """The trainings of a fit from scratch.

    Attributes:
        images: The photos, of which some are kept out.
        new: Classes that play new in the rehearsal.
        fold: The photos of the rehearsal's training.
        size: Height and width in pixels.
        epochs: Of a whole training, where there is no limit.
    """

    images: PhotoSet
    new: list[str]
    fold: PhotoSet
    size: int
    epochs: int

    def rehearses(self, level: float) -> bool:
        """Say whether the fold can be played."""
        return not why_not(self.fold, self.new, level)

    def images_per_epoch(self, level: float) -> int:
        """Return the training images of the network and, if it can be played, of the fold."""
        fold = training_images(self.fold) if self.rehearses(level) else 0
        return training_images(self.images) + fold


def plan_from_scratch(images: PhotoSet, options: FitOptions) -> ScratchPlan:
    """Return what will be trained on photos.

    Args:
        images: The photos.
        options: What was asked for.

    Raises:
        ConfigError: There are too few photos to set a threshold.
    """
    level = options.false_alarm
    kept = keep_out(images, level=level)
    require_threshold(kept, options)
    new = classes_of_fold(images.classes, images.catch_all)
    return ScratchPlan(
        kept,
        new,
        images_of_fold(images, new, level=level),
        size_for([photo.size for photo in images.photos]),
        epochs_for(training_images(kept)),
    )


def training_images(images: PhotoSet) -> int:
    """Return how many images train."""
    return sum(photo.part == "train" for photo in images.photos)


def seconds_per_epoch(plan: ScratchPlan, options: FitOptions, found: Found, device: str) -> float:
    """Measure a few steps, and return the seconds of one epoch of all trainings.

    Args:
        plan: What will be trained.
        options: What was asked for.
        found: The photos.
        device: Where it will be trained.
    """
    recipe = recipe_from_scratch(options, found.source, size=plan.size, epochs=plan.epochs)
    each = seconds_per_image(recipe, len(plan.images.classes), device)
    return each * plan.images_per_epoch(options.false_alarm)
