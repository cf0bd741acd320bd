"""Would so many images of a new class be found in the pool, as one cluster?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.closed_form.statistics import Samples
from trainables.features.clustering import MOST_PER_CLASS, estimate_num_clusters
from trainables.methods.clusterers import Clusterer

FEWEST = 5  # images of a cluster from which on it counts as one that could be learnt
PURITY, RECALL = 0.8, 0.5
MOST_KNOWN = 5_000  # images of known classes beside a pool, but for one of each class


class Finding(NamedTuple):
    """How the pool is laid out and searched.

    Attributes:
        clusterer: Groups the images of the pool, beside images of known classes.
        sizes: Numbers of images of the new class that came.
        prevalence: Their share of the stream, in (0, 1).
        max_new: Largest number of clusters that is considered, >= 1.
    """

    clusterer: Clusterer
    sizes: tuple[int, ...] = (10, 30, 100)
    prevalence: float = 0.1
    max_new: int = 10

    def false_alarms(self, size: int, level: float) -> int:
        """Return the known images in the pool: those of the stream, times their false alarm.

        Example:
            >>> Finding(Clusterer.parse("kmeans")).false_alarms(30, 0.05)  # 5 % of 270
            14
        """
        return round(level * size * (1 - self.prevalence) / self.prevalence + 1e-9)


class Stream(NamedTuple):
    """What a turn lets flow past.

    Attributes:
        known: Training images of the known classes.
        weights: How often known images come in the stream ``[N]``, of any sum.
        alarms: Known images that are false alarms ``[N]`` bool, out of fold.
        new: Features of the new class ``[M, D]``.
        noticed: Which of them are noticed ``[M]`` bool.
    """

    known: Samples
    weights: Tensor
    alarms: Tensor
    new: Tensor
    noticed: Tensor


def found_by_size(
    finding: Finding, stream: Stream, *, level: float, generator: torch.Generator
) -> dict[int, bool | None]:
    """Say for each number of images of the new class whether they are found as one cluster.

    So many images of the class flow past, among known ones by the prevalence. What is noticed of
    them, and the false alarms, are the pool. It is clustered with images of known classes (at most
    50 of each), as the stage `discover` does it, with the number of new clusters estimated. They
    are found if a new cluster of at least 5 images is of the class by at least .8, and holds at
    least .5 of the class's images that came.

    Args:
        finding: The rules.
        stream: Images, and which of them are called unknown.
        level: Of false alarm.
        generator: Draws images, and is the clusterer's.

    Returns:
        ``None`` for a number that could not be tried: the class has fewer images, or the known
        classes have fewer false alarms than such a pool holds.
    """
    found: dict[int, bool | None] = {}
    for size in finding.sizes:
        alarms = finding.false_alarms(size, level)
        possible = stream.alarms & (stream.weights > 0)
        if len(stream.new) < size or int(possible.sum()) < alarms:
            found[size] = None
            continue
        came = torch.randperm(len(stream.new), generator=generator)[:size]
        pooled = stream.new[came[stream.noticed[came]]]
        if len(pooled) < max(RECALL * size, PURITY * FEWEST) - 1e-9:
            found[size] = False  # whatever the clusters are: too few are in the pool
            continue
        beside = stream.known.features[:0]
        if alarms:
            chances = stream.weights * possible
            beside = stream.known.features[torch.multinomial(chances, alarms, generator=generator)]
        clusters = clusters_of_pool(finding, stream.known, torch.cat([pooled, beside]), generator)
        found[size] = _is_found(clusters, len(pooled), size)
    return found


def clusters_of_pool(
    finding: Finding, known: Samples, pool: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the new cluster of each image of a pool ``[P]`` int64; -1: it is put to a known class.

    The pool is clustered with at most 50 images of each known class, fewer above 100 classes, since
    memory grows with the square of all; the number of new clusters is estimated. A pool of fewer
    than 5 images has none.

    Args:
        finding: The clusterer, and how many clusters are considered at most.
        known: Images of known classes.
        pool: Features ``[P, D]``.
        generator: Draws images, and is the clusterer's.
    """
    if len(pool) < FEWEST:
        return torch.full((len(pool),), -1)
    order = torch.randperm(len(known.labels), generator=generator)
    present = known.labels.unique()
    each = min(MOST_PER_CLASS, max(1, MOST_KNOWN // len(present)))
    kept = torch.cat([order[known.labels[order] == label][:each] for label in present])
    features = torch.cat([known.features[kept], pool])
    labels = torch.cat([known.labels[kept], torch.full((len(pool),), -1)])
    number = estimate_num_clusters(
        finding.clusterer,
        features=features,
        labels=labels,
        max_new=min(finding.max_new, len(pool)),
        generator=generator,
    ).num_new
    classes = int(known.labels.max()) + 1
    assigned: Tensor = finding.clusterer(
        features=features, labels=labels, num_clusters=classes + number, generator=generator
    )
    own = assigned[len(kept) :]
    return torch.where(own >= classes, own - classes, -1)


def _is_found(clusters: Tensor, new: int, came: int) -> bool:
    """Say whether a cluster holds the new class.

    Args:
        clusters: Of the pool ``[P]``, -1: none; the first ``new`` are of the class.
        new: Images of the class in the pool.
        came: Images of the class in the stream.

    Example:
        >>> clusters = torch.tensor([0, 0, 0, 0, 0, -1, 0, 1])
        >>> _is_found(clusters, 6, 10), _is_found(clusters, 6, 11), _is_found(clusters, 3, 6)
        (True, False, False)
    """
    for cluster in clusters[clusters >= 0].unique():
        members = clusters == cluster
        right, size = int(members[:new].sum()), int(members.sum())
        # 1e-9: a share that equals the bound up to rounding reaches it
        pure = right >= PURITY * size - 1e-9
        if size >= FEWEST and pure and right >= RECALL * came - 1e-9:
            return True
    return False
