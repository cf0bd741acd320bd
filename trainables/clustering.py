"""What discovery asks about clusters: do they fit the labels, and how many are there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from trainables.kmeans import squared_distances, unit_rows
from trainables.matching import (
    adjusted_rand,
    balanced_accuracy,
    matched_accuracy,
    mutual_information,
    silhouette,
)

if TYPE_CHECKING:
    from trainables.methods.clusterers import Clusterer

SILHOUETTE_NOISE = 0.005  # about what another start of k-means changes
ACCURACY_NOISE = 0.1  # about what another draw of probe classes changes
PROBE_SPLITS = 2  # more splits cost time and moved the estimate less than the seed does
FEW_RESTARTS = 5  # in the search, where many candidates smooth the answer
SCAN_ALL = 12  # up to this many candidates every one is tried
MOST_PER_CLASS = 50  # samples of a class, known or supposed, that take part in the search


def known_quality(assignments: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Say how well clusters agree with the labels that are known.

    Give labels that the clusterer did not see: constrained k-means repeats those it was given.

    Args:
        assignments: Clusters ``[N]`` int64.
        labels: Classes ``[N]`` int64, -1 = unknown.

    Returns:
        ``clustering_accuracy`` (Hungarian), ``nmi`` (arithmetic), ``ari`` and ``num_labelled``;
        all zero where no sample is labelled: nothing has been shown to be good.

    Example:
        >>> known_quality(torch.tensor([1, 1, 0, 3]), torch.tensor([0, 0, 1, -1]))
        {'clustering_accuracy': 1.0, 'nmi': 1.0, 'ari': 1.0, 'num_labelled': 3.0}
    """
    known = labels >= 0
    if not known.any():
        return {"clustering_accuracy": 0.0, "nmi": 0.0, "ari": 0.0, "num_labelled": 0.0}
    truth, found = labels[known], assignments[known]
    return {
        "clustering_accuracy": matched_accuracy(assignments, labels),
        "nmi": mutual_information(truth, found),
        "ari": adjusted_rand(truth, found),
        "num_labelled": float(known.sum()),
    }


class KEstimate(NamedTuple):
    """An estimated number of new classes and what it rests on, per candidate tried.

    ``scores`` is accuracy plus silhouette, for a table or a figure; the estimate itself is the
    middle of the candidates that are best by one and by the other.
    """

    num_new: int
    scores: dict[int, float]
    accuracy: dict[int, float]
    silhouette: dict[int, float]


def estimate_num_clusters(
    clusterer: Clusterer,
    *,
    features: torch.Tensor,
    labels: torch.Tensor,
    max_new: int,
    generator: torch.Generator,
) -> KEstimate:
    """Estimate the number of new classes among the unlabelled samples.

    Two looks at every candidate k. Silhouette: all is clustered into C + k clusters. Accuracy: the
    same with the labels of half of the known classes (probes) hidden; the Hungarian accuracy on the
    probes, each class with equal weight, tells whether they were merged or split. The estimate is
    the mean of both looks' best candidates, rounded up, as in DTC (see `middle_of_best`); new
    clusters below 1 % of the largest are not counted.

    Candidates up to 12 are all tried; above, a coarse grid is refined around both best ones, each
    candidate once. At most 50 samples per class take part, drawn from the generator.

    Args:
        clusterer: Any method of that kind.
        features: ``[N, D]``.
        labels: ``[N]`` int64, -1 = unknown.
        max_new: Largest answer, at least 1.
        generator: Source of all draws.

    Returns:
        ``num_new`` in ``1..max_new``, and at most the number of unlabelled samples; 0 only where
        no sample is unlabelled. With fewer than two known classes there is no probe and the
        silhouette decides alone.

    Raises:
        ValueError: ``max_new`` is below 1.

    Source:
        Han et al. 2019, "Learning to Discover Novel Visual Categories via Deep Transfer
        Clustering", arXiv:1908.09884, section 3.3; reference code k-han/DTC cifar100_est_k.py. We
        cluster with any clusterer, weigh probe classes equally (their sizes are long-tailed), take
        the silhouette over all samples, and allow for noise in both curves.
    """
    if max_new < 1:
        raise ValueError(f"estimate_num_clusters: max_new must be at least 1; received {max_new}")
    most = min(max_new, int((labels < 0).sum()))
    if most == 0:
        return KEstimate(0, {}, {}, {})
    chosen = _subsample(labels, MOST_PER_CLASS * max_new, generator)
    quick = _with_few_restarts(clusterer)
    trials = _Trials(quick, features[chosen], labels[chosen], most, generator)
    _search(trials, most)
    best = middle_of_best(trials.silhouette, trials.accuracy)
    trials.run(best)
    scores = {k: trials.accuracy[k] + trials.silhouette[k] for k in sorted(trials.silhouette)}
    num_new = max(1, count_large(trials.sizes[best], start=trials.num_known))
    return KEstimate(num_new, scores, trials.accuracy, trials.silhouette)


class _Trials:
    """Results per number of new clusters, each computed once."""

    def __init__(
        self,
        clusterer: Clusterer,
        features: torch.Tensor,
        labels: torch.Tensor,
        max_new: int,
        generator: torch.Generator,
    ) -> None:
        known = labels >= 0
        present, positions = torch.unique(labels[known], return_inverse=True)
        self.labels = torch.full_like(labels, -1)
        self.labels[known] = positions
        self.num_known = len(present)
        self.clusterer, self.generator = clusterer, generator
        self.features = _principal(unit_rows(features), self.num_known + max_new, generator)
        self.distances = squared_distances(self.features, self.features).sqrt()
        splits = PROBE_SPLITS if self.num_known > 1 else 0
        self.hidden = [_hide_half(self.labels, self.num_known, generator) for _ in range(splits)]
        self.accuracy: dict[int, float] = {}
        self.silhouette: dict[int, float] = {}
        self.sizes: dict[int, list[int]] = {}

    def run(self, num_new: int) -> None:
        """Cluster with all labels and with each set of hidden ones, unless that was done."""
        if num_new in self.silhouette:
            return
        free = self.labels < 0
        found = self._cluster(self.labels, num_new)
        self.silhouette[num_new] = silhouette(self.distances, found)
        self.sizes[num_new] = torch.bincount(found[free]).tolist()
        probed = [
            balanced_accuracy(self._cluster(view, num_new), torch.where(view < 0, self.labels, -1))
            for view in self.hidden
        ]
        self.accuracy[num_new] = sum(probed) / len(probed) if probed else 0.0

    def _cluster(self, visible: torch.Tensor, num_new: int) -> torch.Tensor:
        found: torch.Tensor = self.clusterer(
            features=self.features,
            labels=visible,
            num_clusters=self.num_known + num_new,
            generator=self.generator,
        )
        return found


def _principal(features: torch.Tensor, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return about the ``width`` main directions of the features: less noise, less to compute."""
    if features.shape[1] <= width:
        return features
    start = torch.randn(
        features.shape[1],
        width,
        generator=generator,
        dtype=features.dtype,
        device=generator.device,
    )
    # two power iterations separate the main directions from the rest
    basis = start.to(features.device)
    for _ in range(3):
        basis, _ = torch.linalg.qr(features.T @ (features @ basis))
    return features @ basis


def _with_few_restarts(clusterer: Clusterer) -> Clusterer:
    """Return the clusterer with at most `FEW_RESTARTS` restarts, if it has such a setting."""
    restarts = getattr(clusterer, "n_init", FEW_RESTARTS)
    if restarts <= FEW_RESTARTS:
        return clusterer
    return clusterer.model_copy(update={"n_init": FEW_RESTARTS})


def _search(trials: _Trials, most: int) -> None:
    """Try all candidates, or a coarse grid and then ever nearer neighbors of the best ones."""
    step = math.ceil(most / SCAN_ALL)
    for candidate in sorted({*range(1, most + 1, step), most}):
        trials.run(candidate)
    while step > 1:
        step = math.ceil(step / 2)
        sharp = min(_good(trials.silhouette, SILHOUETTE_NOISE))
        right = _nearest(_good(trials.accuracy, ACCURACY_NOISE), sharp)
        for best in (sharp, right):
            for candidate in (best - step, best + step):
                trials.run(min(max(candidate, 1), most))


def _good(curve: dict[int, float], tolerance: float) -> list[int]:
    """Return the candidates whose value is the highest or almost, ascending."""
    enough = max(curve.values()) - tolerance
    return sorted(candidate for candidate, value in curve.items() if value >= enough)


def _nearest(candidates: list[int], target: int) -> int:
    """Return the candidate nearest to the target, the smaller of two."""
    return min(candidates, key=lambda candidate: abs(candidate - target))


def middle_of_best(
    sharpness: dict[int, float],
    accuracy: dict[int, float],
    *,
    sharpness_noise: float = SILHOUETTE_NOISE,
    accuracy_noise: float = ACCURACY_NOISE,
) -> int:
    """Return the mean, rounded up, of the best candidates by silhouette and by accuracy.

    Both curves are noisy and often flat. Within its noise the silhouette takes the fewest clusters,
    and the accuracy agrees with the silhouette as far as it can.

    Example:
        >>> middle_of_best({1: 0.1, 4: 0.9}, {1: 0.8, 2: 0.75, 4: 0.4})
        3
    """
    sharp = min(_good(sharpness, sharpness_noise))
    return math.ceil((sharp + _nearest(_good(accuracy, accuracy_noise), sharp)) / 2)


def count_large(sizes: list[int], *, start: int = 0) -> int:
    """Count the clusters from ``start`` with more than 1 % of the largest one's samples.

    Example:
        >>> count_large([1000, 11, 10, 0])
        2
    """
    return sum(size > 0.01 * max(sizes) for size in sizes[start:])


def _subsample(
    labels: torch.Tensor, most_unlabelled: int, generator: torch.Generator
) -> torch.Tensor:
    """Return positions, ascending: some of each known class and some of the unlabelled."""
    order = torch.randperm(len(labels), generator=generator, device=generator.device)
    order = order.to(labels.device)
    kept = []
    for label in torch.unique(labels).tolist():
        most = most_unlabelled if label < 0 else MOST_PER_CLASS
        kept.append(order[labels[order] == label][:most])
    return torch.cat(kept).sort().values


def _hide_half(labels: torch.Tensor, num_known: int, generator: torch.Generator) -> torch.Tensor:
    """Return labels in which half of the classes are -1 and the rest is numbered from 0."""
    order = torch.randperm(num_known, generator=generator, device=generator.device)
    anchors = order.to(labels.device)[num_known // 2 :]
    names = labels.new_full((num_known + 1,), -1)
    names[anchors] = torch.arange(len(anchors), device=labels.device)
    return names[labels]  # -1 reads the last entry, which is -1
