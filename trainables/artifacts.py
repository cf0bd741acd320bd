"""Artifacts, the inputs and outputs of stages, and their storage as safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.method import Method
from trainables.methods.scores import Score
from trainables.settings import canonical_json

FORMAT_VERSION = 2
# Names of fields in format 1, with those of today.
FORMER_FIELDS = {
    "Classifier": {"training": "train_cost"},
    "PseudoLabels": {"num_clusters": "num_new_clusters"},
}


Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Images(Protocol):
    """uint8 ``[M, H, W, 3]``: an array, or files that are decoded when they are indexed.

    An index is an integer array, a slice or an integer. Index a batch at a time: all images of a
    view may not fit into memory.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """``(M, H, W, 3)``."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Pixels: ...


class LabelledView(NamedTuple):
    """Images with labels.

    ``images`` is uint8 ``[M, H, W, 3]`` (a shared array, or files), ``indices [N]`` selects from
    ``images``, ``labels [N]`` are int64 in ``0..num_classes-1``. ``digest`` identifies the content.
    ``groups [N]`` are int64, the same for images that must not be parted; ``None``: each is alone.
    ``class_names`` are those of the labels, where they are told; they are no part of the digest.
    """

    images: Images
    indices: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    num_classes: int
    digest: str
    groups: np.ndarray[Any, np.dtype[np.int64]] | None = None
    class_names: Sequence[str] = ()


class ImageView(NamedTuple):
    """Images (uint8 ``[M, H, W, 3]``) and ``indices [N]`` without labels, which can't leak."""

    images: Images
    indices: np.ndarray[Any, np.dtype[np.int64]]
    digest: str


class PoolLabels(NamedTuple):
    """True labels of the pool, an input of ``evaluate`` and of upper bounds only.

    ``labels [N]`` are int64, known classes ``0..C-1``, new classes ``C..C+K-1``, unrelated ``-1``.
    """

    labels: np.ndarray[Any, np.dtype[np.int64]]
    num_known: int
    num_novel: int
    digest: str


class Backbone(NamedTuple):
    """Architecture name (see `trainables.models.backbone`), input size and weights of a trunk.

    ``pretrained_on`` says what the weights were trained on before this recipe. The other two are
    digests of images that they were trained on with labels ``[N]`` int64: before this recipe, and
    in it. Artifacts of earlier versions have ``None``. ``pretraining_labels`` are the labels before
    this recipe, as far as anyone says. See `trainables.weights.provenance`.
    """

    architecture: str
    image_size: int
    num_features: int
    pretrained_on: str
    state: dict[str, Tensor]
    pretraining_images: Tensor | None = None
    training_images: Tensor | None = None
    pretraining_labels: Sequence[str] = ()


class Classifier(NamedTuple):
    """A head on a trunk's features.

    ``logits = head(features) + logit_offset``; ``class_counts [C]`` are the training images per
    class; ``feature_mean [D]`` is the moving average of training features (for TDE); ``train_cost``
    counts the training steps and samples (``classify_steps``, ``classify_samples``,
    ``rebalance_steps``, ``rebalance_samples``).
    """

    head: Head
    num_features: int
    state: dict[str, Tensor]
    logit_offset: Tensor
    class_counts: Tensor
    feature_mean: Tensor
    oracle: bool = False
    train_cost: Mapping[str, float] = {}


class Features(NamedTuple):
    """Trunk outputs ``[N, D]`` float32 of labelled views, without augmentation, in view order."""

    known_train: Tensor
    validation_known: Tensor


class StreamFeatures(NamedTuple):
    """As `Features`, of images that a classifier does not learn.

    They are an artifact of their own, so that no key of a classifier depends on them.
    """

    validation_novel: Tensor
    pool: Tensor


class HeldOutFeatures(NamedTuple):
    """Features of the held-out views, for ``evaluate`` only.

    ``first`` is under the trunk before the update, ``updated`` under the trunk after it; both
    ``[N, D]``, with rows of known, new and never learnt classes in this order. If the update leaves
    the trunk as it is, ``updated`` is empty: ``[0, D]``.
    """

    first: Tensor
    updated: Tensor


class Scorer(NamedTuple):
    """Calibrator and score with fitted state, and the threshold of the confidence.

    A sample with ``confidence < threshold`` is called unknown. ``class_thresholds [C]``, if there
    are any, are the thresholds of samples by the class they are taken for, in place of the one.
    ``prior [C]`` is the share of each class among the images that are expected; ``None``: they come
    as the images did that the scorer was fitted on.
    """

    calibrator: Calibrator
    calibrator_state: dict[str, Tensor]
    score: Score
    score_state: dict[str, Tensor]
    threshold: float
    class_thresholds: Tensor | None = None
    prior: Tensor | None = None


class OutOfFold(NamedTuple):
    """Answers to training images by models that were fitted without the image's group.

    ``logits [N, C]`` are those of the rebalanced head, before any calibration; ``confidence [N]``
    is that of calibrator and score, which were fitted without the group too, or empty; ``groups
    [N]`` int64 are the images that left together. All are in the order of the training view. All
    are empty where validation images say how good answers are, or where there are no such answers.
    """

    logits: Tensor
    confidence: Tensor
    groups: Tensor


class PoolSelection(NamedTuple):
    """Ascending positions ``[S]`` (int64) of the pool samples that were called unknown."""

    positions: Tensor


class PseudoLabels(NamedTuple):
    """Pseudo-labels of the selected pool samples.

    ``positions [S]`` index the pool view; ``labels [S]`` are int64, known classes ``0..C-1`` and
    new clusters ``C..C+K-1`` with K = ``num_new_clusters``; ``weights [S]`` are in [0, 1], 0 for
    ignored samples; ``quality`` holds e.g. the clustering accuracy on known samples.
    """

    positions: Tensor
    labels: Tensor
    weights: Tensor
    num_new_clusters: int
    quality: dict[str, float]
    oracle: bool = False


class Evaluation(NamedTuple):
    """Metrics by name, and arrays for figures."""

    metrics: dict[str, float]
    arrays: dict[str, Tensor]


A = TypeVar("A")


class Parts(NamedTuple):
    """An artifact taken apart: name of its class, plain fields, and tensors by name.

    A tensor in a field that is a mapping is named ``field/key``.
    """

    kind: str
    plain: dict[str, Any]
    tensors: dict[str, Tensor]


def take_apart(artifact: tuple[Any, ...]) -> Parts:
    """Return the parts of a NamedTuple artifact; its tensors on the CPU, contiguous.

    Example:
        >>> take_apart(Evaluation({"accuracy": 1.0}, {"hits": torch.ones(2)})).tensors
        {'arrays/hits': tensor([1., 1.])}
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, value in artifact._asdict().items():  # type: ignore[attr-defined]
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous()
        elif isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
            for key, tensor in value.items():
                tensors[f"{name}/{key}"] = tensor.detach().cpu().contiguous().clone()
        else:
            plain[name] = value.dump() if isinstance(value, Method) else value
    return Parts(type(artifact).__name__, plain, tensors)


def write_parts(parts: Parts, folder: Path) -> None:
    """Write plain fields to ``artifact.json`` and tensors to ``tensors.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"format_version": FORMAT_VERSION, "type": parts.kind, "fields": parts.plain}
    (folder / "artifact.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    save_file(parts.tensors, folder / "tensors.safetensors")


def save_artifact(artifact: tuple[Any, ...], folder: Path) -> str:
    """Write a NamedTuple artifact into ``folder`` and return its content digest.

    Tensors are written to ``tensors.safetensors``, other fields to ``artifact.json``. The digest
    depends only on the content.
    """
    parts = take_apart(artifact)
    write_parts(parts, folder)
    return content_digest(parts.plain, parts.tensors)


def content_digest(plain: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of plain values and tensors."""
    digest = hashlib.sha256(canonical_json(plain).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_artifact(cls: type[A], folder: Path, elsewhere: Mapping[str, Tensor] = {}) -> A:
    """Read an artifact of class ``cls``, written by `save_artifact` in this format or before.

    Args:
        cls: Class of the artifact.
        folder: Folder with ``artifact.json`` and ``tensors.safetensors``.
        elsewhere: Tensors by name that are stored outside of the folder.

    Raises:
        ValueError: The folder holds another type or a newer format.
    """
    document = json.loads((folder / "artifact.json").read_text())
    if document["type"] != cls.__name__ or document["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder} holds {document['type']} in format {document['format_version']}; "
            f"expected {cls.__name__} in format <= {FORMAT_VERSION}"
        )
    # copied, because memory-mapped tensors have another alignment, which changes the last bit of
    # sums
    stored = load_file(folder / "tensors.safetensors")
    tensors = {name: tensor.clone() for name, tensor in stored.items()} | dict(elsewhere)
    former = FORMER_FIELDS.get(cls.__name__, {})
    values = {former.get(name, name): value for name, value in document["fields"].items()}
    for name, hint in get_type_hints(cls).items():
        if name in values:
            values[name] = _restore(hint, values[name])
        elif name in tensors:
            values[name] = tensors[name]
        elif name not in getattr(cls, "_field_defaults", {}):
            prefix = f"{name}/"
            values[name] = {
                key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)
            }
    return cls(**values)


def _restore(hint: Any, value: Any) -> Any:
    """Rebuild a method from its dumped form; return plain values unchanged."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if isinstance(hint, type) and issubclass(hint, Method) and value is not None:
        return hint.parse(value)
    return value
