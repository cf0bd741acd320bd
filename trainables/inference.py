"""An exported model that answers: class, probability, and whether the image is known at all.

A model folder holds one folder per artifact (safetensors and JSON, see `trainables.artifacts`),
``experiment.yaml`` and ``model.json``, which names the classes and says on which test views the
model was measured. Loading reads data only: nothing in the folder is run or unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from trainables.artifacts import (
    Backbone,
    Classifier,
    ImageView,
    LabelledView,
    Scorer,
    load_artifact,
)
from trainables.backbone import extract_features, from_artifact
from trainables.data import Views
from trainables.errors import ConfigError
from trainables.methods import KINDS  # noqa: F401  (an artifact names its methods)
from trainables.predict import calibrated, confidence, head_module
from trainables.routing import as_needed
from trainables.settings import canonical_json, read_yaml
from trainables.source_cache import Images, fit_image

CARD_FILE = "model.json"
FORMAT_VERSION = 1
PARTS: dict[str, type[Any]] = {
    "backbone": Backbone,
    "classifier": Classifier,
    "scorer": Scorer,
    "updated_backbone": Backbone,
    "updated_classifier": Classifier,
}


class Card(BaseModel):
    """What ``model.json`` says.

    Args:
        format_version: Of this file.
        class_names: One per output of the updated classifier: known classes, then ``new-0``, ...
        num_known: How many of them are known classes.
        image_size: Height and width that the trunk takes.
        class_counts: Training images per known class.
        yardstick: Digest of the test views, the bands and the settings of the measurement: metrics
            of two models may be compared if it is equal.
        source: Name of the data source.
        protocol_hash: Hash of the whole protocol, training views included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    class_names: tuple[str, ...]
    num_known: int
    image_size: int
    class_counts: tuple[int, ...]
    yardstick: str
    source: str
    protocol_hash: str


class Predictions(NamedTuple):
    """Answers for N images.

    ``class_index [N]`` int64 and ``class_name`` come from the updated classifier (known classes,
    then discovered ones), ``probability [N]`` is its softmax there. ``confidence [N]`` (higher =
    more surely a known class) and ``known [N]`` bool (``confidence >= threshold``) come from the
    scorer on the first classifier. An image that is not known may still be named after a
    discovered class.
    """

    class_index: np.ndarray[Any, np.dtype[np.int64]]
    class_name: list[str]
    probability: np.ndarray[Any, np.dtype[np.float32]]
    confidence: np.ndarray[Any, np.dtype[np.float32]]
    known: np.ndarray[Any, np.dtype[np.bool_]]


class Outputs(NamedTuple):
    """What a model says in full: calibrated logits and confidence of the first classifier.

    ``logits [N, C]``, ``confidence [N]``, and ``updated [N, C + K]``, the logits after the update.
    """

    logits: Tensor
    confidence: Tensor
    updated: Tensor


class Model:
    """A loaded model; use `load_model`.

    Args:
        parts: Artifacts by name, as in `PARTS`.
        card: Names and sizes.
        device: Where the trunks run; heads and scores run on the CPU.
    """

    def __init__(
        self, parts: dict[str, Any], card: Card, device: torch.device | str = "cpu"
    ) -> None:
        self.card, self.device = card, device
        self.scorer: Scorer = parts["scorer"]
        self.classifier: Classifier = parts["classifier"]
        self.updated_classifier: Classifier = parts["updated_classifier"]
        first, second = parts["backbone"], parts["updated_backbone"]
        self._trunk = from_artifact(first).to(device).eval()
        # an update of the head alone leaves the trunk as it was: it runs once
        same = _same_weights(first.state, second.state)
        self._updated_trunk = self._trunk if same else from_artifact(second).to(device).eval()
        self._head = head_module(self.classifier)
        self._updated_head = head_module(self.updated_classifier)
        heads = [self._head, self._updated_head]
        self._updated_features = as_needed(self._updated_trunk, heads if same else heads[1:])
        self._features = self._updated_features if same else as_needed(self._trunk, heads[:1])
        if "features" in self.scorer.score.takes():  # all of them
            self._features = self._trunk

    def predict(self, images: Images | Sequence[Images]) -> Predictions:
        """Answer for images of any size.

        An image of another size than the model's is treated as training images are: its shorter
        side is resized to ``card.image_size`` (bilinear), then the center square is cut out.

        Args:
            images: uint8 ``[N, H, W, 3]`` RGB, or a sequence of uint8 ``[H, W, 3]`` of any sizes.

        Raises:
            ValueError: The images have another shape or type.
        """
        fitted = self.fit(images)
        outputs = self.outputs(ImageView(fitted, np.arange(len(fitted)), ""))
        probability, index = outputs.updated.softmax(1).max(1)
        chosen = index.numpy()
        return Predictions(
            class_index=chosen,
            class_name=[self.card.class_names[int(i)] for i in chosen],
            probability=probability.numpy(),
            confidence=outputs.confidence.numpy(),
            known=(outputs.confidence >= self.scorer.threshold).numpy(),
        )

    def fit(self, images: Images | Sequence[Images]) -> Images:
        """Return images at the model's size, uint8 ``[N, S, S, 3]``."""
        size = self.card.image_size
        for image in [images] if isinstance(images, np.ndarray) else images:
            _check(image, 4 if isinstance(images, np.ndarray) else 3)
        if isinstance(images, np.ndarray) and images.shape[1:3] == (size, size):
            return images
        fitted = np.empty((len(images), size, size, 3), dtype=np.uint8)
        for number, image in enumerate(images):
            fitted[number] = fit_image(image, size)
        return fitted

    @torch.no_grad()
    def outputs(self, view: LabelledView | ImageView) -> Outputs:
        """Return logits and confidence for a view whose images have the model's size."""
        features = extract_features(self._trunk, view, device=self.device, compute=self._features)
        updated = features
        if self._updated_trunk is not self._trunk:
            updated = extract_features(
                self._updated_trunk, view, device=self.device, compute=self._updated_features
            )
        raw = self._head(features).float() + self.classifier.logit_offset
        logits = calibrated(self.scorer, raw)
        sureness = confidence(
            self.scorer,
            features=features,
            logits=logits,
            class_counts=self.classifier.class_counts,
        )
        after = self._updated_head(updated).float() + self.updated_classifier.logit_offset
        return Outputs(logits, sureness, after)


def load_model(folder: Path, device: torch.device | str = "cpu") -> Model:
    """Read an exported model.

    Args:
        folder: What `orchestrator.execute.export_model` wrote, with the card of `describe_model`.
        device: Where the trunks run.

    Raises:
        ConfigError: The folder is no model, lacks a part, or is newer than this program.
    """
    card = read_card(folder)
    missing = [
        name
        for name in PARTS
        for file in ("artifact.json", "tensors.safetensors")
        if not (folder / name / file).is_file()
    ]
    if missing:
        raise ConfigError(f"model folder {folder} lacks {', '.join(dict.fromkeys(missing))}")
    parts = {name: load_artifact(cls, folder / name) for name, cls in PARTS.items()}
    outputs = len(parts["updated_classifier"].class_counts)
    if outputs != len(card.class_names):
        raise ConfigError(
            f"model folder {folder}: {CARD_FILE} names {len(card.class_names)} classes, "
            f"the updated classifier has {outputs} outputs"
        )
    return Model(parts, card, device)


def read_card(folder: Path) -> Card:
    """Read ``model.json``.

    Raises:
        ConfigError: There is none, it is damaged, or of a newer format.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} is no model folder: it has no {CARD_FILE}")
    try:
        card = Card.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} is damaged or of another format: {found}") from None
    if card.format_version > FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {card.format_version}; this program reads <= {FORMAT_VERSION}"
        )
    return card


def describe_model(folder: Path, views: Views) -> Card:
    """Write ``model.json`` into an exported model's folder.

    Args:
        folder: Exported artifacts and ``experiment.yaml``.
        views: The views of that experiment: class names come from their summary.
    """
    classifier = load_artifact(Classifier, folder / "classifier")
    updated = load_artifact(Classifier, folder / "updated_classifier")
    trunk = load_artifact(Backbone, folder / "backbone")
    counts = tuple(int(n) for n in classifier.class_counts)
    known = [str(name) for name in views.summary["known_class_names"]]
    discovered = len(updated.class_counts) - len(known)
    card = Card(
        class_names=(*known, *(f"new-{number}" for number in range(discovered))),
        num_known=len(known),
        image_size=trunk.image_size,
        class_counts=counts,
        yardstick=yardstick(views, counts, read_yaml(folder / "experiment.yaml")["evaluate"]),
        source=str(views.summary["source"]),
        protocol_hash=str(views.summary["protocol_hash"]),
    )
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=1), encoding="utf-8")
    return card


def yardstick(views: Views, class_counts: Sequence[int], settings: dict[str, Any]) -> str:
    """Return a digest of what a model's test metrics depend on besides the model.

    Args:
        views: Their held-out views.
        class_counts: Training images per known class: they make the bands many, medium and few.
        settings: Of the stage ``evaluate``.
    """
    held = [views.held_out_known.digest, views.held_out_novel.digest]
    content = canonical_json([held, list(class_counts), settings])
    return hashlib.sha256(content.encode()).hexdigest()


def _same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Say whether two trunks are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _check(image: Any, dimensions: int) -> None:
    """Refuse what is no uint8 RGB image, or stack of images."""
    shape: tuple[int, ...] = getattr(image, "shape", ())
    if (
        getattr(image, "dtype", None) != np.uint8
        or len(shape) != dimensions
        or shape[-1] != 3
        or 0 in shape[-3:]
    ):
        wanted = "[N, H, W, 3]" if dimensions == 4 else "[H, W, 3]"
        raise ValueError(
            f"images: expected uint8 {wanted}; received "
            f"{getattr(image, 'dtype', type(image).__name__)} {list(shape)}"
        )
