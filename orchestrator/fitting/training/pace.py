"""How long a training takes here, and how many epochs it has: decided once, before it begins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from orchestrator.locking.sweep_lock import write_file
from orchestrator.records import Record

if TYPE_CHECKING:
    from trainables.experiment import Experiment

ROUNDS, COLORS = 3, 3


class Pace(Record):
    """Epochs of the trainings of a fit, and the seconds that all of them take."""

    key: str  # of the fit
    epochs: int
    seconds: float


def pace_of(key: str, file: Path, *, most: int, per_epoch: float, limit: float | None) -> Pace:
    """Return the epochs of a fit: those that were written down for it, else as time allows.

    Args:
        key: Digest of what was asked for and of the photos.
        file: Where it is written down, so that an interrupted fit goes on with the same epochs.
        most: Epochs without a limit.
        per_epoch: Seconds of one epoch of all trainings.
        limit: Seconds that are left; ``None``: no limit.
    """
    try:
        found = Pace.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        found = None
    if found is None or found.key != key:
        epochs = epochs_in(limit, per_epoch, most=most)
        found = Pace(key=key, epochs=epochs, seconds=epochs * per_epoch)
        write_file(file, found.model_dump_json(indent=1).encode())
    return found


def epochs_in(limit: float | None, per_epoch: float, *, most: int) -> int:
    """Return how many epochs there is time for, at least 1 and at most ``most``.

    Example:
        >>> [epochs_in(limit, 10.0, most=30) for limit in (None, 65.0, 5.0)]
        [30, 6, 1]
    """
    return most if limit is None else max(1, min(most, int(limit / per_epoch)))


def in_epochs(number: int) -> str:
    """Return a number of epochs in words.

    Example:
        >>> in_epochs(1), in_epochs(1200)
        ('1 epoch', '1,200 epochs')
    """
    return f"{number:,} epoch{'s' * (number != 1)}"


def seconds_per_image(recipe: Experiment, classes: int, device: str, *, batch: int = 0) -> float:
    """Measure a step of a recipe's training of trunk and head: seconds per image.

    The smallest of a few steps on empty images; reading and changing images is not in it.

    Args:
        recipe: The recipe.
        classes: Number of classes.
        device: Where it will be trained.
        batch: Images of a step; 0: as many as in the training.
    """
    import torch

    from trainables.models.backbone import build_trunk
    from trainables.models.trunks.blocks import train_only, training_mode
    from trainables.stages.pretrain import trunk_architecture
    from trainables.weights.pretrained import find_weights

    size = int(recipe.data.image_size or 0)
    pretrain, weights = recipe.pretrain, None
    if pretrain.method.name == "pretrained":
        weights = find_weights(pretrain.backbone, pretrain.method, size)
    trunk = build_trunk(trunk_architecture(pretrain, weights), size, weights=weights).to(device)
    train_only(trunk, recipe.trunk_tuner().rates(trunk))
    head = torch.nn.Linear(trunk.num_features, classes).to(device)
    batch = batch or recipe.classify.training.batch_size
    images = torch.zeros(batch, COLORS, size, size, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    training_mode(trunk)
    times: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(head(trunk(images)), labels)
        loss.backward()
        trunk.zero_grad()
        loss.item()  # waits for a GPU
        times.append((time.perf_counter() - start) / batch)
    return min(times)
