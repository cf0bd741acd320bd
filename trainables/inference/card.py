"""The card of a model: its classes, how images are made for it, what it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from trainables.artifacts import Backbone, Classifier, Evaluation, load_artifact
from trainables.data.data_settings import USUAL_FITTING, Data, Fitting, Interpolation
from trainables.data.views import Views
from trainables.errors import ConfigError
from trainables.settings import build, canonical_json, read_yaml
from trainables.weights.label_sets import met_classes
from trainables.weights.provenance import NOT_KNOWN

CARD_FILE = "model.json"
# 1: `Card.evaluation_digest` was called yardstick; until 2: without `Card.pretrained_on`; until 3:
# a model was two, see `trainables.inference.model`; until 4: images were fitted as usual
FORMAT_VERSION = 5
LAST_FORMER = 3


class Card(BaseModel):
    """Contents of ``model.json``.

    Args:
        format_version: Format version of the file.
        class_names: Name of each output of the classifier: known classes, then ``new-0``,
            ``new-1`` and so on for classes that an update discovered.
        num_known: Number of known classes.
        matched: For each discovered class, the name of the new class that most of its pool images
            are of, or an empty text. Only an evaluation can know it; it serves to judge the model
            again.
        served: Which model this is: ``first``, before the update, or ``updated``.
        image_size: Height and width of the trunk's input.
        interpolation: How images are resized to it.
        crop_fraction: Side of the center square that is kept over the shorter side of the resized
            image.
        class_counts: Training images per known class.
        evaluation_digest: Digest of test views, bands and settings of the evaluation. The metrics
            of two models are comparable if their digests are equal.
        source: Name of the data source.
        protocol_hash: Hash of the whole protocol, training views included.
        pretrained_on: What the trunk's weights were trained on before.
        met_classes: Names of known and new classes that the trunk was trained on before, as far as
            the labels of that training tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    class_names: tuple[str, ...]
    num_known: int
    matched: tuple[str, ...] = ()
    served: Literal["first", "updated"] = "updated"
    image_size: int
    interpolation: Interpolation = USUAL_FITTING.interpolation
    crop_fraction: float = USUAL_FITTING.crop_fraction
    class_counts: tuple[int, ...]
    evaluation_digest: str = Field(validation_alias=AliasChoices("evaluation_digest", "yardstick"))
    source: str
    protocol_hash: str
    pretrained_on: str = NOT_KNOWN
    met_classes: tuple[str, ...] = ()

    @property
    def fitting(self) -> Fitting:
        """How an image becomes a square of the model's size."""
        return Fitting(self.interpolation, self.crop_fraction)

    @property
    def is_former(self) -> bool:
        """Whether the folder holds two classifiers, see `FORMER_PARTS`."""
        return self.format_version <= LAST_FORMER


def read_card(folder: Path) -> Card:
    """Read ``model.json``.

    Raises:
        ConfigError: The file is missing, damaged or of a newer format.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} is not a model folder: it has no {CARD_FILE}")
    try:
        card = Card.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        details = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} is damaged or of another format: {details}") from None
    if card.format_version > FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {card.format_version}; this program reads <= {FORMAT_VERSION}"
        )
    return card


def describe_model(
    folder: Path, views: Views, served: Literal["first", "updated"] = "updated"
) -> Card:
    """Write ``model.json`` into an exported model's folder.

    Args:
        folder: Folder of exported artifacts and ``experiment.yaml``.
        views: Views of the experiment, whose summary holds the class names.
        served: Which of the experiment's two models was exported.
    """
    classifier = load_artifact(Classifier, folder / "classifier")
    trunk = load_artifact(Backbone, folder / "backbone")
    known = [str(name) for name in views.summary["known_class_names"]]
    counts = tuple(int(n) for n in views.summary["class_counts"])
    discovered = len(classifier.class_counts) - len(known)
    clusters = load_artifact(Evaluation, folder / "evaluation").arrays["cluster_classes"]
    recipe = read_yaml(folder / "experiment.yaml")
    fitting = build(Data, recipe["data"]).fitting
    card = Card(
        class_names=(*known, *_new_names(known, discovered)),
        num_known=len(known),
        matched=_matched(clusters[:discovered].tolist(), views) if discovered else (),
        served=served,
        image_size=trunk.image_size,
        interpolation=fitting.interpolation,
        crop_fraction=fitting.crop_fraction,
        class_counts=counts,
        evaluation_digest=evaluation_digest(views, counts, recipe["evaluate"]),
        source=str(views.summary["source"]),
        protocol_hash=str(views.summary["protocol_hash"]),
        pretrained_on=trunk.pretrained_on,
        met_classes=met_classes(
            [*known, *map(str, views.summary["novel_class_names"])], trunk.pretraining_labels
        ),
    )
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=1), encoding="utf-8")
    return card


def _new_names(known: Sequence[str], number: int) -> list[str]:
    """Return names of discovered classes that no known class has.

    Example:
        >>> _new_names(["cat", "new-0"], 2)
        ['new-1', 'new-2']
    """
    free = (name for name in map("new-{}".format, count()) if name not in known)
    return list(islice(free, number))


def _matched(classes: Sequence[int], views: Views) -> tuple[str, ...]:
    """Return the name of the new class that each discovered class is, or an empty text."""
    names = [str(name) for name in views.summary["novel_class_names"]]
    first = len(views.summary["known_class_names"])
    return tuple("" if label < first else names[label - first] for label in classes)


def evaluation_digest(views: Views, class_counts: Sequence[int], settings: dict[str, Any]) -> str:
    """Return a digest of everything but the model that determines its test metrics.

    Args:
        views: Views, of which the held-out ones enter the digest.
        class_counts: Training images per known class, which define the bands many, medium and few.
        settings: Settings of the stage ``evaluate``.
    """
    held = [view.digest for view in (views.held_out_known, views.held_out_novel)]
    held.append(views.held_out_unknown.digest)
    content = canonical_json([held, list(class_counts), settings])
    return hashlib.sha256(content.encode()).hexdigest()
