"""The share of each class among the images that are expected: named, or told by a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainables.data.source_names import PRIOR_FILE
from trainables.errors import ConfigError, did_you_mean
from trainables.experiment import AS_GIVEN
from trainables.settings import read_yaml

MOST_NAMES = 12  # of classes in a message
MOST_IMAGES = 1e15  # of a class; sums stay exact numbers


def expected_prior(prior: str, class_counts: Tensor, class_names: Sequence[str]) -> Tensor | None:
    """Return the share of each class ``[C]`` float64; ``None``: as the images come.

    Args:
        prior: ``as_given``, ``natural`` (as in training), ``balanced``, or ``file:PATH``, of a file
            with a line ``class: number`` for every class (YAML or JSON).
        class_counts: Training images per class ``[C]``.
        class_names: Names of the classes, in their order.

    Raises:
        ConfigError: The file can't be read, or does not give a number to each class.

    Example:
        >>> expected_prior("natural", torch.tensor([3, 1]), ["cat", "dog"]).tolist()
        [0.75, 0.25]
        >>> expected_prior("balanced", torch.tensor([3, 1]), ["cat", "dog"]).tolist()
        [0.5, 0.5]
    """
    if prior == AS_GIVEN:
        return None
    if prior.startswith(PRIOR_FILE):
        told = _read(prior.removeprefix(PRIOR_FILE), class_names)
        shares = torch.tensor(told, dtype=torch.float64)
    else:
        shares = class_counts if prior == "natural" else torch.ones_like(class_counts)
    return shares.double() / shares.sum()


def _read(path: str, class_names: Sequence[str]) -> list[float]:
    """Return the number of each class in a file."""
    owner, place = f"score.prior: {path}", Path(path).expanduser()
    if not place.is_file():
        raise ConfigError(f"{owner}: no such file; it has a line 'class: number' for every class")
    told = {str(name): value for name, value in read_yaml(place).items()}
    for name in told:
        if name not in class_names:
            raise ConfigError(
                f"{owner} names '{name}', which is no class; allowed: "
                f"{', '.join(class_names[:MOST_NAMES])}{did_you_mean(name, class_names)}"
            )
    for name in class_names:
        value = told.get(name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value <= MOST_IMAGES
        ):
            received = "none" if name not in told else value
            raise ConfigError(
                f"{owner} must give class '{name}' a number of at least 0 and at most "
                f"{MOST_IMAGES:g}, how often it is expected; received {received}"
            )
    if not sum(told.values()) > 0:
        raise ConfigError(f"{owner} expects no image of any class; give one a number above 0")
    return [float(told[name]) for name in class_names]


def weights_of(prior: Tensor | None, labels: Tensor) -> Tensor | None:
    """Return how much each image counts ``[N]`` float64, on average 1, for classes to come so.

    Args:
        prior: Share of each class ``[C]``; classes without an image are left out.
        labels: ``[N]`` int64.

    Example:
        >>> weights_of(torch.tensor([0.5, 0.5]), torch.tensor([0, 0, 0, 1])).tolist()
        [0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 2.0]
    """
    if prior is None:
        return None
    counts = torch.bincount(labels, minlength=len(prior)).double()
    each = prior.double() / counts.clamp_min(1)
    weights = each[labels]
    if not float(weights.sum()) > 0:
        return torch.ones_like(weights)
    return weights * (len(labels) / weights.sum())
