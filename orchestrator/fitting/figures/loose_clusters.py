"""Which images that are called unknown look alike among themselves, beside images of known classes.

A clusterer gives clusters of whatever it gets. Those are told whose images are about as alike as
images of one known class are.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from orchestrator.locking.sweep_lock import write_file
from trainables.closed_form.statistics import Samples, samples
from trainables.context import derive_seed
from trainables.features.clustering import MOST_PER_CLASS
from trainables.features.kmeans import unit_rows
from trainables.rehearsal.finding import FEWEST, clusters_of_pool

if TYPE_CHECKING:
    from trainables.rehearsal.finding import Finding

FILE = "known_features.safetensors"
MOST = 2000  # images of known classes that are kept


def keep_known(features: Tensor, labels: Tensor, folder: Path, *, most: int = MOST) -> None:
    """Keep features of known images beside a model: at most 50 of each class, drawn.

    Args:
        features: ``[N, D]``, of images that the backbone was not trained on, where it was trained.
        labels: Their classes ``[N]`` int64.
        folder: Of the model.
        most: Images in all, but for one of each class.
    """
    from safetensors.torch import save

    order = torch.randperm(len(labels), generator=_generator("known images"))
    present = labels.unique()
    each = min(MOST_PER_CLASS, max(1, most // max(1, len(present))))
    rows = torch.cat([order[:0], *(order[labels[order] == label][:each] for label in present)])
    rows = rows.sort().values
    kept = {"features": features[rows].float().contiguous(), "labels": labels[rows].contiguous()}
    write_file(folder / FILE, save(kept))


def kept_known(folder: Path) -> Samples | None:
    """Return what `keep_known` kept; ``None`` if there is nothing that can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load((folder / FILE).read_bytes())
        return samples(found["features"], found["labels"])
    except (OSError, SafetensorError, KeyError):  # of a fit of before
        return None


def clusters_alike(finding: Finding, known: Samples, pool: Tensor) -> list[list[int]]:
    """Return the clusters of a pool whose images look alike, the largest first.

    They have 5 images or more, whose mean cosine over pairs is nearer to that of a known class (the
    median over classes) than to that of images of different known classes.

    Args:
        finding: The clusterer, and how many clusters are considered at most.
        known: Images of known classes.
        pool: Features of the images that are called unknown ``[P, D]``.

    Returns:
        Positions in the pool, those nearest to the cluster's mean direction first.
    """
    least = _least_alike(known)
    clusters = clusters_of_pool(finding, known, pool, _generator("clusters"))
    found = []
    for cluster in clusters[clusters >= 0].unique():
        rows = torch.nonzero(clusters == cluster).flatten()
        if len(rows) >= FEWEST and alikeness(pool[rows]) >= least:
            found.append(_typical_first(rows, pool))
    return sorted(found, key=lambda rows: (-len(rows), min(rows)))


def _least_alike(known: Samples) -> float:
    """Return how alike images must be; infinite if known classes can't tell."""
    each = [known.features[known.labels == label] for label in known.labels.unique()]
    within = [alikeness(features) for features in each if len(features) > 1]
    if not within or len(each) < 2:
        return math.inf
    means = torch.stack([unit_rows(features).mean(0) for features in each])
    pairs = means.sum(0).square().sum() - means.square().sum()
    between = float(pairs) / (len(each) * (len(each) - 1))
    return (median(within) + between) / 2


def alikeness(features: Tensor) -> float:
    """Return the mean cosine over all pairs of two images or more ``[N, D]``.

    Example:
        >>> alikeness(torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]]))  # of pairs 1, 0, 0
        0.3333333333333333
    """
    unit = unit_rows(features)
    pairs = unit.sum(0).square().sum() - unit.square().sum()
    return float(pairs / (len(unit) * (len(unit) - 1)))


def _typical_first(rows: Tensor, pool: Tensor) -> list[int]:
    unit = unit_rows(pool[rows])
    order = (unit @ unit.mean(0)).argsort(descending=True, stable=True)
    found: list[int] = rows[order].tolist()
    return found


def _generator(what: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "fit", "no class", what))
