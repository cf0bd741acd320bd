"""Classification problem of a few samples, with artifacts of its stages."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.artifacts import Classifier, Features, LabelledView, StreamFeatures
from trainables.methods.heads import Head
from trainables.models.backbone import build_trunk

CLASSES, NOVEL = 4, 2
TRUNK = build_trunk("fastnet", 16, generator=torch.Generator().manual_seed(0))


def view(counts: tuple[int, ...]) -> LabelledView:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    return LabelledView(images, np.arange(len(labels)), labels, CLASSES, "")


TRAIN, VALIDATION = view((24, 9, 4, 2)), view((3, 3, 3, 3))
UNKNOWN = view((6, 2, 3, 2, 7, 6))


def features_of(labels: Any, seed: int, counts: int = CLASSES + NOVEL) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(labels), TRUNK.num_features, generator=draws)
    return 3 * torch.eye(counts, TRUNK.num_features)[torch.as_tensor(labels)] + 0.7 * noise


FEATURES = Features(
    features_of(TRAIN.labels, 1),
    features_of(VALIDATION.labels, 2),
)
STREAM_FEATURES = StreamFeatures(
    features_of([4] * 5 + [5] * 5, 3),
    features_of(UNKNOWN.labels, 4),
)


def classifier(head: object) -> Classifier:
    draws = torch.Generator().manual_seed(0)
    chosen, width = Head.parse(head), TRUNK.num_features
    state = {
        name: torch.randn(value.shape, generator=draws) / 4
        for name, value in chosen.build(width, CLASSES).state_dict().items()  # type: ignore[operator]
    }
    zeros, counts = torch.zeros(CLASSES), torch.bincount(torch.from_numpy(TRAIN.labels))
    return Classifier(chosen, width, state, zeros, counts, torch.zeros(width))


def tensors(value: object) -> list[Tensor]:
    """Return all tensors of an artifact; numbers become tensors."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, float | int):
        return [torch.tensor(float(value))]
    if isinstance(value, Mapping):
        return [tensor for name in sorted(value) for tensor in tensors(value[name])]
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in tensors(part)]
    return []
