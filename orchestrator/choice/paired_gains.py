"""Gains of one recipe over another, image by image: their mean and its bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.records import Interval

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
DRAWS = 2000
BLOCK = 4_000_000  # resampled differences that are in memory at a time


class Labelled(Protocol):
    """Something with a label per image."""

    @property
    def labels(self) -> Integers:
        """Labels ``[N]``."""
        ...


class Gains(NamedTuple):
    """Gains of one seed: ``values [N]``, ``labels [N]`` and the classes that count.

    Images of a group (``groups [N]``) are drawn together; ``None``: each image is a group.
    """

    values: Floats
    labels: Integers
    classes: Integers
    groups: Integers | None = None


def mean_gain(gains: Sequence[Gains], rng: np.random.Generator, draws: int = DRAWS) -> Interval:
    """Return the mean over seeds and classes of gains, with its 95 % bootstrap interval.

    Seeds and the images of each class are drawn with replacement. Seeds with the same images share
    the drawn images, seeds with other images have draws of their own.
    """
    seeds = len(gains)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    labels, classes = gains[0].labels, gains[0].classes
    if same_images(gains):
        values = np.stack([each.values for each in gains])
        drawn = _resampled_means(values, labels, classes, weights, rng, gains[0].groups)
        return interval_of(*drawn)
    one = np.ones((draws, 1))
    parts = [
        _resampled_means(each.values[None], each.labels, each.classes, one, rng, each.groups)
        for each in gains
    ]
    total = (weights * np.stack([drawn for drawn, _ in parts], axis=1)).sum(1)
    return interval_of(total, float(np.mean([exact for _, exact in parts])))


def same_images(seeds: Sequence[Labelled]) -> bool:
    """Say whether all seeds have the same images."""
    return all(np.array_equal(each.labels, seeds[0].labels) for each in seeds)


def interval_of(values: Floats, mean: float) -> Interval:
    """Return the mean with the central 95 % of resampled values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(mean=mean, low=float(low), high=float(high), values=[mean])


def _resampled_means(
    values: Floats,
    labels: Integers,
    classes: Integers,
    weights: Floats,
    rng: np.random.Generator,
    groups: Integers | None = None,
) -> tuple[Floats, float]:
    """Return resampled class means of values ``[S, N]``, and the mean without resampling.

    ``weights [draws, S]`` are those of the drawn seeds. Whole groups of images are drawn.
    """
    draws, exact = len(weights), 0.0
    total = np.zeros(draws)
    for label in classes:
        inside = values[:, labels == label]
        exact += float(inside.mean()) / len(classes)
        sizes = np.ones(inside.shape[1])
        if groups is not None:
            inside, sizes = _by_group(inside, groups[labels == label])
        count = len(sizes)
        for start in range(0, draws, max(1, BLOCK // count)):
            rows = slice(start, start + max(1, BLOCK // count))
            part = weights[rows]
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=len(part))
            total[rows] += ((part @ inside) * drawn).sum(1) / (drawn @ sizes) / len(classes)
    return total, exact


def _by_group(values: Floats, groups: Integers) -> tuple[Floats, Floats]:
    """Return sums of values ``[S, N]`` over groups ``[S, G]``, and the groups' sizes ``[G]``."""
    _, places, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(places, row, len(sizes)) for row in values]).astype(np.float64)
    return sums, sizes.astype(np.float64)
