"""A small network from scratch, for photos without pretrained weights at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from orchestrator.options import local_folder
from trainables.experiment import Experiment, in_service
from trainables.settings import build

if TYPE_CHECKING:
    from orchestrator.fitting.fit_options import FitOptions

NETWORK = "fastnet"  # of this project's networks the best one per second on a CPU
SMALL, LARGE = 32, 64  # pixels
UP_TO = 48  # photos whose shorter side is at most so many pixels are fitted to SMALL
IMAGES_SEEN = 80_000  # by a whole training
EPOCHS = (12, 100)  # at least and at most
SCRATCH: Mapping[str, Any] = {
    "data.skip_unreadable": True,
    "pretrain.backbone": NETWORK,
    "pretrain.method": "none",
    "classify.loss": "logit_adjustment",
    "classify.training.batch_size": 64,
    "classify.training.lr": 0.05,
    "classify.training.schedule": "one_cycle",
    "classify.training.gradient_clip": 1.0,  # a few steps at full rate would not recover
    "score.method": "msp",
}


def size_for(sizes: Sequence[tuple[int, int]]) -> int:
    """Return the pixels that photos of some widths and heights are fitted to.

    Example:
        >>> size_for([(32, 32), (40, 32), (4032, 3024)]), size_for([(480, 360)])
        (32, 64)
    """
    return SMALL if median(min(size) for size in sizes) <= UP_TO else LARGE


def epochs_for(images: int) -> int:
    """Return the epochs of a whole training: more for fewer images.

    Example:
        >>> epochs_for(100), epochs_for(2_700), epochs_for(50_000)
        (100, 30, 12)
    """
    least, most = EPOCHS
    return min(most, max(least, round(IMAGES_SEEN / max(images, 1))))


def recipe_from_scratch(options: FitOptions, source: str, *, size: int, epochs: int) -> Experiment:
    """Return the recipe that trains a small network on all classes of a folder.

    Its loss is cross-entropy with logit adjustment, which makes up for unequal classes.

    Args:
        options: What was asked for.
        source: ``data.source`` of the photos, some of which validate.
        size: Height and width in pixels.
        epochs: Passes over the training images.
    """
    changes = {
        "name": options.model_name,
        "data.source": source,
        "data.root": str(local_folder(options.storage) / "data"),
        "data.image_size": size,
        **SCRATCH,
        "classify.training.epochs": epochs,
        "score.prior": options.prior,
        "score.threshold": {"false_alarm": {"level": options.false_alarm}},
    }
    return in_service(build(Experiment, {}), changes)
