"""What stages hand to each other, and how it is stored: safetensors plus JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.methods.calibrators import Calibrator
from trainables.methods.heads import Head
from trainables.methods.method import Method
from trainables.methods.scores import Score
from trainables.settings import canonical_json

FORMAT_VERSION = 1


class LabelledView(NamedTuple):
    """Images with labels.

    ``images`` is uint8 ``[M, H, W, 3]`` (often memory-mapped and shared), ``indices [N]`` selects
    from it, ``labels [N]`` int64 in ``0..num_classes-1``. ``digest`` identifies the content.
    """

    images: np.ndarray[Any, np.dtype[np.uint8]]
    indices: np.ndarray[Any, np.dtype[np.int64]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    num_classes: int
    digest: str


class ImageView(NamedTuple):
    """Images without labels (uint8 ``[M, H, W, 3]``, ``indices [N]``): nothing to leak."""

    images: np.ndarray[Any, np.dtype[np.uint8]]
    indices: np.ndarray[Any, np.dtype[np.int64]]
    digest: str


class PoolLabels(NamedTuple):
    """The truth about the pool, readable by ``evaluate`` only.

    ``labels [N]`` int64: known classes ``0..C-1``, new classes ``C..C+K-1``, unrelated ``-1``.
    """

    labels: np.ndarray[Any, np.dtype[np.int64]]
    num_known: int
    num_novel: int
    digest: str


class Backbone(NamedTuple):
    """A trunk: architecture name (see `trainables.backbone`), input size, and weights."""

    architecture: str
    image_size: int
    num_features: int
    pretrained_on: str
    state: dict[str, Tensor]


class Classifier(NamedTuple):
    """A head on a trunk's features.

    ``logits = head(features) + logit_offset``; ``class_counts [C]`` are the training images per
    class; ``feature_mean [D]`` is the moving average of training features (for TDE); ``training``
    says how long it was trained (``classify_steps``, ``classify_samples`` and the same of
    ``rebalance``).
    """

    head: Head
    num_features: int
    state: dict[str, Tensor]
    logit_offset: Tensor
    class_counts: Tensor
    feature_mean: Tensor
    oracle: bool = False
    training: Mapping[str, float] = {}


class Features(NamedTuple):
    """Trunk outputs ``[N, D]`` float32 per view, without augmentation, in view order."""

    known_train: Tensor
    validation_known: Tensor
    validation_novel: Tensor
    pool: Tensor


class Scorer(NamedTuple):
    """How sure is sure enough: calibrator and score with fitted state, and the threshold.

    A sample with ``confidence < threshold`` is called unknown.
    """

    calibrator: Calibrator
    calibrator_state: dict[str, Tensor]
    score: Score
    score_state: dict[str, Tensor]
    threshold: float


class PoolSelection(NamedTuple):
    """Which samples of the pool view were called unknown: positions ``[S]`` int64, ascending."""

    positions: Tensor


class PseudoLabels(NamedTuple):
    """Labels for the selected pool samples.

    ``positions [S]`` into the pool view; ``labels [S]`` int64: ``0..C-1`` known, ``C..C+K-1`` new
    clusters; ``weights [S]`` in [0, 1], 0 = left out; ``quality`` e.g. clustering accuracy on the
    known part.
    """

    positions: Tensor
    labels: Tensor
    weights: Tensor
    num_clusters: int
    quality: dict[str, float]
    oracle: bool = False


class Evaluation(NamedTuple):
    """Metrics by name, and the arrays that figures are drawn from."""

    metrics: dict[str, float]
    arrays: dict[str, Tensor]


A = TypeVar("A")


def save_artifact(artifact: tuple[Any, ...], folder: Path) -> str:
    """Write a NamedTuple artifact into ``folder`` and return its content digest.

    Tensors go to ``tensors.safetensors``, everything else to ``artifact.json``. Equal content gives
    an equal digest, whoever computed it.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
    document = {"format_version": FORMAT_VERSION, "type": type(artifact).__name__, "fields": plain}
    (folder / "artifact.json").write_text(json.dumps(document, indent=1, sort_keys=True))
    save_file(tensors, folder / "tensors.safetensors")
    return content_digest(plain, tensors)


def content_digest(plain: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of plain values and tensors."""
    digest = hashlib.sha256(canonical_json(plain).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_artifact(cls: type[A], folder: Path) -> A:
    """Read an artifact of class ``cls`` that `save_artifact` wrote.

    Raises:
        ValueError: The folder holds another type or a newer format.
    """
    document = json.loads((folder / "artifact.json").read_text())
    if document["type"] != cls.__name__ or document["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder} holds {document['type']} in format {document['format_version']}; "
            f"expected {cls.__name__} in format <= {FORMAT_VERSION}"
        )
    # Copies: a tensor inside the file's memory map is not aligned as a fresh one is, and sums over
    # it differ in the last bit.
    stored = load_file(folder / "tensors.safetensors")
    tensors = {name: tensor.clone() for name, tensor in stored.items()}
    values: dict[str, Any] = dict(document["fields"])
    for name, hint in get_type_hints(cls).items():
        if name in values:
            values[name] = _restore(hint, values[name])
        elif name in tensors:
            values[name] = tensors[name]
        else:
            prefix = f"{name}/"
            values[name] = {
                key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)
            }
    return cls(**values)


def _restore(hint: Any, value: Any) -> Any:
    """Rebuild a method from its dumped form; leave plain values as they are."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if isinstance(hint, type) and issubclass(hint, Method) and value is not None:
        return hint.parse(value)
    return value
