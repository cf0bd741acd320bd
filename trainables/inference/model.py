"""Load an exported model and predict class, probability and whether an image's class is known.

A model folder holds one folder per artifact (safetensors and JSON, see `trainables.artifacts`),
``experiment.yaml`` and ``model.json``, which holds the class names and a digest of the test views
of the model's evaluation. The folder ``reference`` (answers to known images) is missing in models
of before. Loading executes and unpickles nothing from the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from trainables.artifacts import (
    Backbone,
    Classifier,
    ImageView,
    LabelledView,
    Scorer,
    load_artifact,
)
from trainables.data.source_cache import Images, fit_image
from trainables.errors import ConfigError
from trainables.features.predict import calibrated, confidence, head_module, unknown
from trainables.inference.card import CARD_FILE, Card, read_card
from trainables.inference.reference import Reference, Strangeness, strangeness
from trainables.methods import KINDS  # noqa: F401  (an artifact names its methods)
from trainables.models.backbone import Trunk, extract_features, from_artifact, same_trunk
from trainables.models.early_exit import as_needed

PARTS: dict[str, type[Any]] = {
    "backbone": Backbone,
    "classifier": Classifier,
    "scorer": Scorer,
}
# Parts of formats 1 to 3. There, the class comes from the updated classifier, uncalibrated, and
# the confidence from the classifier before the update.
FORMER_PARTS = {**PARTS, "updated_backbone": Backbone, "updated_classifier": Classifier}


REFERENCE = "reference"


class Predictions(NamedTuple):
    """Predictions for N images.

    ``class_index [N]`` int64 and ``class_name`` are the most probable class (a known class, or one
    that an update discovered); ``probability [N]`` is its calibrated softmax. ``confidence [N]``
    (higher values indicate a class that the model knows) is of the same classifier, and ``known
    [N]`` bool is ``confidence >= threshold``, which may be one of the class.
    """

    class_index: np.ndarray[Any, np.dtype[np.int64]]
    class_name: list[str]
    probability: np.ndarray[Any, np.dtype[np.float32]]
    confidence: np.ndarray[Any, np.dtype[np.float32]]
    known: np.ndarray[Any, np.dtype[np.bool_]]


class Outputs(NamedTuple):
    """Outputs of a model for N images: ``logits [N, C + K]``, calibrated, ``confidence [N]``."""

    logits: Tensor
    confidence: Tensor


class Model:
    """Loaded model, built by `load_model`.

    Args:
        parts: Artifacts by name, see `PARTS` and `FORMER_PARTS`.
        card: Names and sizes.
        device: Device of the trunks; heads and scores run on the CPU.
        reference: Answers to known images, which say how strange an image looks.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        card: Card,
        device: torch.device | str = "cpu",
        reference: Reference | None = None,
    ) -> None:
        self.card, self.device = card, device
        self.scorer: Scorer = parts["scorer"]
        self.classifier: Classifier = parts["classifier"]
        self._ordinary: Tensor | None = None
        if reference is not None and len(reference.confidence):
            self._ordinary = self._comparable(*reference).sort().values
        self._head = head_module(self.classifier)
        self._trunk = from_artifact(parts["backbone"]).to(device).eval()
        self._former = _FormerUpdate(parts, self._trunk, device) if _is_former(parts) else None
        heads = [self._head] if self._former is None else [self._head, *self._former.shares_trunk]
        self._features = as_needed(self._trunk, heads)
        if "features" in self.scorer.score.accepted_inputs():  # the score needs all branches
            self._features = self._trunk

    def predict(self, images: Images | Sequence[Images]) -> Predictions:
        """Predict for images of any size, resized and cut as in training (``card.fitting``).

        Args:
            images: uint8 ``[N, H, W, 3]`` RGB, or a sequence of uint8 ``[H, W, 3]`` of any sizes.

        Raises:
            ValueError: The images have the wrong shape or type.
        """
        return self.answer(self.fit(images))

    def answer(self, fitted: Images) -> Predictions:
        """Predict for images that were resized and cut already, uint8 ``[N, S, S, 3]``."""
        outputs = self.outputs(ImageView(fitted, np.arange(len(fitted)), ""))
        probability, index = outputs.logits.softmax(1).max(1)
        chosen = index.numpy()
        return Predictions(
            class_index=chosen,
            class_name=[self.card.class_names[int(i)] for i in chosen],
            probability=probability.numpy(),
            confidence=outputs.confidence.numpy(),
            known=self.known(outputs).numpy(),
        )

    def known(self, outputs: Outputs) -> Tensor:
        """Return the verdict for N images ``[N]`` bool: whether the image's class is known."""
        found: Tensor = unknown(self.scorer, confidence=outputs.confidence, logits=outputs.logits)
        return ~found

    def strangeness(self, outputs: Outputs) -> list[Strangeness] | None:
        """Return how many known images look as strange as each image.

        Compared are confidences or, where classes have thresholds of their own, how far they are
        above the threshold of the class that the image is taken for: only so does an image that is
        called unknown look stranger than those that are not. ``None`` if the model's folder has no
        answers to known images.
        """
        if self._ordinary is None:
            return None
        asked = self._comparable(outputs.confidence, outputs.logits.argmax(1))
        return strangeness(asked, self._ordinary)

    def _comparable(self, confidences: Tensor, predicted: Tensor) -> Tensor:
        """Return what ranks images from strange to ordinary ``[N]``."""
        thresholds = self.scorer.class_thresholds
        return confidences if thresholds is None else confidences - thresholds[predicted]

    def fit(self, images: Images | Sequence[Images]) -> Images:
        """Resize and crop images to the model's size, uint8 ``[N, S, S, 3]``."""
        size = self.card.image_size
        for image in [images] if isinstance(images, np.ndarray) else images:
            _check(image, 4 if isinstance(images, np.ndarray) else 3)
        fitted = np.empty((len(images), size, size, 3), dtype=np.uint8)
        for number, image in enumerate(images):
            fitted[number] = fit_image(image, size, self.card.fitting)
        return fitted

    def outputs(self, view: LabelledView | ImageView) -> Outputs:
        """Return logits and confidence for a view whose images have the model's size."""
        return self.outputs_of(view, self.features(view))

    def features(self, view: LabelledView | ImageView) -> Tensor:
        """Return the trunk's features ``[N, D]`` of a view whose images have the model's size."""
        return extract_features(self._trunk, view, device=self.device, compute=self._features)

    @torch.no_grad()
    def outputs_of(self, view: LabelledView | ImageView, features: Tensor) -> Outputs:
        """Return logits and confidence for a view whose `features` were computed already."""
        raw = self._head(features).float() + self.classifier.logit_offset
        logits = calibrated(self.scorer, raw)
        confidences = confidence(
            self.scorer,
            features=features,
            logits=logits,
            class_counts=self.classifier.class_counts,
        )
        if self._former is not None:
            return Outputs(self._former.logits(view, features), confidences)
        return Outputs(logits, confidences)


def _is_former(parts: dict[str, Any]) -> bool:
    """Say whether parts are those of a model of format 1 to 3."""
    return "updated_classifier" in parts


class _FormerUpdate:
    """The updated classifier of formats 1 to 3, which answers beside the first one.

    Args:
        parts: Artifacts by name, see `FORMER_PARTS`.
        trunk: Trunk of the first classifier, used here too if the update left it unchanged.
        device: Device of the trunks.
    """

    def __init__(self, parts: dict[str, Any], trunk: Trunk, device: torch.device | str) -> None:
        self.device, self.classifier = device, parts["updated_classifier"]
        self.head = head_module(self.classifier)
        self.shares_trunk: list[torch.nn.Module] = []
        self._trunk: Trunk | None = None
        if same_trunk(parts["backbone"], parts["updated_backbone"]):
            self.shares_trunk = [self.head]
        else:
            self._trunk = from_artifact(parts["updated_backbone"]).to(device).eval()

    def logits(self, view: LabelledView | ImageView, features: Tensor) -> Tensor:
        """Return uncalibrated logits ``[N, C + K]``; ``features`` are under the first trunk."""
        if self._trunk is not None:
            compute = as_needed(self._trunk, [self.head])
            features = extract_features(self._trunk, view, device=self.device, compute=compute)
        found: Tensor = self.head(features).float() + self.classifier.logit_offset
        return found


def load_model(folder: Path, device: torch.device | str = "cpu") -> Model:
    """Read an exported model.

    Args:
        folder: Folder written by `orchestrator.execution.execute.export_model`, with the card of
            `describe_model`.
        device: Device of the trunks.

    Raises:
        ConfigError: The folder is not a model folder, lacks a part, or has a newer format than
            this program reads.
    """
    card = read_card(folder)
    wanted = FORMER_PARTS if card.is_former else PARTS
    missing = [
        name
        for name in wanted
        for file in ("artifact.json", "tensors.safetensors")
        if not (folder / name / file).is_file()
    ]
    if missing:
        raise ConfigError(f"model folder {folder} lacks {', '.join(dict.fromkeys(missing))}")
    parts = {name: _load_part(cls, folder / name) for name, cls in wanted.items()}
    answering = parts["updated_classifier" if _is_former(parts) else "classifier"]
    outputs = len(answering.class_counts)
    if outputs != len(card.class_names):
        raise ConfigError(
            f"model folder {folder}: {CARD_FILE} names {len(card.class_names)} classes, "
            f"the classifier has {outputs} outputs"
        )
    try:
        return Model(parts, card, device, _load_reference(folder))
    # weights of other shapes, answers of other classes
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"model folder {folder} is damaged: {_one_line(error)}") from None


def _load_reference(folder: Path) -> Reference | None:
    """Read the answers to known images; models that were exported before have none."""
    if not (folder / REFERENCE / "artifact.json").is_file():
        return None
    return cast("Reference", _load_part(Reference, folder / REFERENCE))


def _load_part(cls: type[Any], folder: Path) -> Any:
    """Read an artifact of a model folder.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        return load_artifact(cls, folder)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"model folder {folder.parent}: {folder.name} is damaged: {_one_line(error)}"
        ) from None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())}"[:200]


def _check(image: Any, dimensions: int) -> None:
    """Raise a ValueError unless ``image`` is a uint8 RGB image, or a stack of images."""
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
