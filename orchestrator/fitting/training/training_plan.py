"""What a fit will train, and how long that takes here; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.fitting.threshold_images import require_threshold
from orchestrator.fitting.training.deeper import EPOCHS, recipe_deeper
from orchestrator.fitting.training.kept_out import keep_out
from orchestrator.fitting.training.one_fold import classes_of_fold, images_of_fold, why_not
from orchestrator.fitting.training.pace import seconds_per_image
from orchestrator.fitting.training.scratch import epochs_for, recipe_from_scratch, size_for

if TYPE_CHECKING:
    from orchestrator.fitting.backbone import FrozenBackbone
    from orchestrator.fitting.fit_options import FitOptions
    from trainables.data.shots.photo_set import PhotoSet
    from trainables.experiment import Experiment

# of `data.source` and epochs
RecipeOf = Callable[[str, int], "Experiment"]


class TrainingPlan(NamedTuple):
    """The trainings of a fit.

    Attributes:
        images: The photos, of which some are kept out.
        new: Classes that play new in the rehearsal.
        fold: The photos of the rehearsal's training.
        epochs: Of a whole training, where there is no limit.
        level: Level of false alarm.
        recipe: The recipe of a source and a number of epochs.
    """

    images: PhotoSet
    new: list[str]
    fold: PhotoSet
    epochs: int
    level: float
    recipe: RecipeOf

    @property
    def rehearses(self) -> bool:
        """Say whether the fold can be played."""
        return not why_not(self.fold, self.new, self.level)

    @property
    def images_per_epoch(self) -> int:
        """The training images of the network and, if it can be played, of the fold."""
        fold = training_images(self.fold) if self.rehearses else 0
        return training_images(self.images) + fold


def plan_from_scratch(images: PhotoSet, options: FitOptions) -> TrainingPlan:
    """Return what a fit without a pretrained backbone trains on photos.

    Raises:
        ConfigError: There are too few photos to set a threshold.
    """
    kept = keep_out(images, level=options.false_alarm)
    require_threshold(kept, options)
    size = size_for([photo.size for photo in images.photos])

    def recipe(source: str, epochs: int) -> Experiment:
        return recipe_from_scratch(options, source, size=size, epochs=epochs)

    return _plan(images, kept, options.false_alarm, epochs_for(training_images(kept)), recipe)


def plan_deeper(images: PhotoSet, options: FitOptions, backbone: FrozenBackbone) -> TrainingPlan:
    """Return what a fit that goes deeper trains on photos, beside the frozen backbone.

    Raises:
        ConfigError: There are too few photos to set a threshold.
    """
    kept = keep_out(images, level=options.false_alarm)
    require_threshold(kept, options)

    def recipe(source: str, epochs: int) -> Experiment:
        return recipe_deeper(options, backbone, source, epochs=epochs)

    return _plan(images, kept, options.false_alarm, EPOCHS, recipe)


def _plan(
    images: PhotoSet, kept: PhotoSet, level: float, epochs: int, recipe: RecipeOf
) -> TrainingPlan:
    new = classes_of_fold(images.classes, images.catch_all)
    fold = images_of_fold(images, new, level=level)
    return TrainingPlan(kept, new, fold, epochs, level, recipe)


def training_images(images: PhotoSet) -> int:
    """Return how many images train."""
    return sum(photo.part == "train" for photo in images.photos)


def seconds_per_epoch(plan: TrainingPlan, source: str, device: str, *, batch: int = 0) -> float:
    """Measure a few steps, and return the seconds of one epoch of all trainings.

    Args:
        plan: What will be trained.
        source: ``data.source`` of the photos.
        device: Where it will be trained.
        batch: Images of a step that is measured; 0: as many as in the training.
    """
    recipe = plan.recipe(source, plan.epochs)
    each = seconds_per_image(recipe, len(plan.images.classes), device, batch=batch)
    return each * plan.images_per_epoch
