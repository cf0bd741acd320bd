"""Tables of outcomes: what a model, and beside it the base recipe, says of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from trainables.artifacts import OutOfFold, Scorer
from trainables.data.readers.kept_files import kept_files, source_of
from trainables.data.source_cache import file_digests
from trainables.errors import ConfigError
from trainables.features.predict import calibrated, confidence, predict_logits
from trainables.functional.verdict import called_unknown, threshold_of_each
from trainables.inference.model import Predictions
from trainables.inference.outcomes import (
    BASE_FILE,
    OUTCOMES_FILE,
    Outcomes,
    image_table,
    save_outcomes,
)

if TYPE_CHECKING:
    from trainables.data.data_settings import Data
    from trainables.data.views import Views
    from trainables.experiment import Evaluate

FILES = {False: OUTCOMES_FILE, True: BASE_FILE}


class Pictured(Protocol):
    """An image of a source: what names its file, its part, its class, and its group."""

    @property
    def bytes_digest(self) -> str:
        """SHA-256 (hex) of the file's bytes."""

    @property
    def part(self) -> str:
        """One of train, val and test."""

    @property
    def class_name(self) -> str:
        """Name of its class."""

    @property
    def group(self) -> str:
        """The same for images that must not be parted."""


class Picture(NamedTuple):
    """An image of a folder or table: digest of its file's bytes, part, class and group."""

    bytes_digest: str
    part: str
    class_name: str
    group: str


def pictures_of(data: Data, views: Views) -> list[Picture]:
    """Return the images of a source of one's own in world `service`, in the source's order.

    Args:
        data: Data settings, whose source is ``folder:PATH`` or ``table:PATH``.
        views: Their views.

    Raises:
        ConfigError: The files changed since they were decoded.
    """
    source = source_of(data)
    if source.digest != views.summary["source_digest"]:  # or other files would be told answers
        raise ConfigError(f"{data.source}: its files changed since they were decoded; start again")
    part = dict.fromkeys(range(len(source.labels)), "train")
    part |= dict.fromkeys(views.index_lists["validation_known"], "val")
    part |= dict.fromkeys(views.index_lists["held_out_known"], "test")
    digests = file_digests(kept_files(data, source))
    groups = digests if source.groups is None else [str(group) for group in source.groups]
    return [
        Picture(digest, part[number], source.class_names[label], group)
        for number, (digest, label, group) in enumerate(
            zip(digests, source.labels.tolist(), groups, strict=True)
        )
    ]


def outcomes_of(
    photos: Sequence[Pictured],
    classes: Sequence[str],
    settings: Evaluate,
    *,
    test: tuple[Sequence[int], Predictions],
    train: tuple[Sequence[int], Predictions] | None = None,
    level: float | None = None,
) -> Outcomes:
    """Return a model's table of outcomes.

    Args:
        photos: The images of the source, in its order.
        classes: Names of the classes that the model knows.
        settings: Bounds of the bands.
        test: Positions of the test images in the source, and the answers to them.
        train: The same of the training images, answered out of fold, or of images that were kept
            out of the training of a network; ``None``: they are not.
        level: False alarm that the threshold was set for.
    """
    images = image_table(
        [photo.bytes_digest for photo in photos],
        [photo.part for photo in photos],
        [photo.class_name for photo in photos],
        [photo.group for photo in photos],
    )
    empty = Outcomes(images, tuple(classes), settings.many_above, settings.few_below, level=level)
    positions, answers = test
    found = empty.with_answers("test", [photos[n].bytes_digest for n in positions], answers)
    if train is None:
        return found
    positions, answers = train
    asked = [photos[n].bytes_digest for n in positions]
    return found.with_answers("train", asked, answers).with_answers("val", asked, answers)


def save(outcomes: Outcomes, folder: Path, *, base: bool) -> None:
    """Write a table into a model's folder: its own, or the base's beside it."""
    save_outcomes(outcomes, folder / FILES[base])


def answers_to_test(
    arrays: Mapping[str, Any], scorer: Scorer, classes: Sequence[str]
) -> Predictions:
    """Return a model's answers to the test images of known classes, from an `Evaluation`."""
    known = len(arrays["confidence_known"])
    index = torch.as_tensor(arrays["predicted"])[:known]
    return _predictions(scorer, index, arrays["probability"], arrays["confidence_known"], classes)


def answers_out_of_fold(found: OutOfFold, scorer: Scorer, classes: Sequence[str]) -> Predictions:
    """Return the answers to the training images by fits without the image's group."""
    probability, index = calibrated(scorer, found.logits).softmax(1).max(1)
    return _predictions(scorer, index, probability, found.confidence, classes)


def answers_to_kept_out(
    artifacts: Mapping[str, Any], scorer: Scorer, classes: Sequence[str]
) -> Predictions:
    """Return a model's answers to the images that were kept out of its training."""
    features, classifier = artifacts["features"].validation_known, artifacts["classifier"]
    logits = calibrated(scorer, predict_logits(classifier, features))
    counts = classifier.class_counts
    sure = confidence(scorer, features=features, logits=logits, class_counts=counts)
    probability, index = logits.softmax(1).max(1)
    return _predictions(scorer, index, probability, sure, classes)


def answers_of_table(predicted: Tensor, classes: Sequence[str]) -> Predictions:
    """Return answers of which the class alone is known ``[N]``; the rest is NaN, none is unknown.

    Example:
        >>> answers_of_table(torch.tensor([1, 0]), ["cat", "dog"]).class_name
        ['dog', 'cat']
    """
    missing = torch.full((len(predicted),), torch.nan).numpy()
    return Predictions(
        predicted.long().numpy(),
        [str(classes[number]) for number in predicted.tolist()],
        missing,
        missing,
        torch.ones(len(predicted), dtype=torch.bool).numpy(),
    )


def _predictions(
    scorer: Scorer, index: Tensor, probability: Any, confidences: Any, classes: Sequence[str]
) -> Predictions:
    sure = torch.as_tensor(confidences)
    threshold = threshold_of_each(scorer.threshold, scorer.class_thresholds, index)
    return Predictions(
        index.numpy(),
        [str(classes[number]) for number in index.tolist()],
        torch.as_tensor(probability).float().numpy(),
        sure.float().numpy(),
        ~called_unknown(sure, threshold).numpy(),
    )
