"""Agreement of clusters with known labels, and an estimate of the number of new classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from trainables.features.kmeans import squared_distances, unit_rows
from trainables.features.matching import (
    adjusted_rand,
    balanced_accuracy,
    matched_accuracy,
    mutual_information,
    silhouette,
)

if TYPE_CHECKING:
    from trainables.methods.clusterers import Clusterer

SILHOUETTE_NOISE = 0.005  # typical change of the silhouette with another k-means initialization
ACCURACY_NOISE = 0.1  # typical change of the accuracy with another draw of probe classes
PROBE_SPLITS = 2  # more splits take longer and change the estimate less than the seed
FEW_RESTARTS = 5  # restarts per candidate; the curve over many candidates averages their noise
SCAN_ALL = 12  # up to this number of candidates, all are tried
MOST_PER_CLASS = 50  # samples per known or assumed new class in the search


def known_quality(assignments: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return measures of agreement between clusters and known labels.

    Pass labels that the clusterer did not get, because constrained k-means assigns labelled samples
    to their classes.

    Args:
        assignments: Clusters ``[N]`` int64.
        labels: Classes ``[N]`` int64, -1 = unknown.

    Returns:
        ``clustering_accuracy`` (Hungarian), ``nmi`` (arithmetic), ``ari`` and ``num_labelled``;
        all are zero without labelled samples.

    Example:
        >>> known_quality(torch.tensor([1, 1, 0, 3]), torch.tensor([0, 0, 1, -1]))
        {'clustering_accuracy': 1.0, 'nmi': 1.0, 'ari': 1.0, 'num_labelled': 3.0}
    """
    known = labels >= 0
    if not known.any():
        return {"clustering_accuracy": 0.0, "nmi": 0.0, "ari": 0.0, "num_labelled": 0.0}
    truth, clusters = labels[known], assignments[known]
    return {
        "clustering_accuracy": matched_accuracy(assignments, labels),
        "nmi": mutual_information(truth, clusters),
        "ari": adjusted_rand(truth, clusters),
        "num_labelled": float(known.sum()),
    }


class KEstimate(NamedTuple):
    """Estimated number of new classes, with the scores of all candidates that were tried.

    ``scores`` are accuracy plus silhouette, for tables and figures. The estimate is the mean of the
    best candidate by accuracy and the best candidate by silhouette.
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

    Each candidate k is judged twice. For the silhouette, all samples are clustered into C + k
    clusters. For the accuracy, the labels of half of the known classes (probes) are hidden; the
    Hungarian accuracy on the probes, with equal weight for each class, is low if probes are merged
    or split. The estimate is the mean of the two best candidates, rounded up, as in DTC (see
    `middle_of_best`); new clusters below 1 % of the largest are not counted.

    Up to 12 candidates are all tried; of more candidates, a coarse grid is refined around the two
    best. At most 50 samples per class, drawn from the generator, are used.

    Args:
        clusterer: A method of the kind ``clusterers``.
        features: ``[N, D]``.
        labels: ``[N]`` int64, -1 = unknown.
        max_new: Largest estimate, at least 1.
        generator: Generator of all draws.

    Returns:
        Estimate with ``num_new`` in ``1..max_new``, at most the number of unlabelled samples; 0
        only without unlabelled samples. With fewer than two known classes there is no probe, and
        the estimate is the best candidate by silhouette.

    Raises:
        ValueError: ``max_new`` is below 1.

    Source:
        Han et al. 2019, "Learning to Discover Novel Visual Categories via Deep Transfer
        Clustering", arXiv:1908.09884, section 3.3; reference code k-han/DTC cifar100_est_k.py.
        Differences: any clusterer may be used, probe classes have equal weight (their sizes are
        long-tailed), the silhouette is over all samples, and both curves have a noise tolerance.
    """
    if max_new < 1:
        raise ValueError(f"estimate_num_clusters: max_new must be at least 1; received {max_new}")
    most = min(max_new, int((labels < 0).sum()))
    if most == 0:
        return KEstimate(0, {}, {}, {})
    chosen = _subsample(labels, MOST_PER_CLASS * max_new, generator)
    quick = _with_few_restarts(clusterer)
    trials = _CandidateScores(quick, features[chosen], labels[chosen], most, generator)
    _search(trials, most)
    best = middle_of_best(trials.silhouette, trials.accuracy)
    trials.run(best)
    scores = {k: trials.accuracy[k] + trials.silhouette[k] for k in sorted(trials.silhouette)}
    num_new = max(1, count_large(trials.sizes[best], start=trials.num_known))
    return KEstimate(num_new, scores, trials.accuracy, trials.silhouette)


class _CandidateScores:
    """Scores by number of new clusters, each computed once."""

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
        """Cluster with all labels and with each set of hidden labels, once per candidate."""
        if num_new in self.silhouette:
            return
        free = self.labels < 0
        clusters = self._cluster(self.labels, num_new)
        self.silhouette[num_new] = silhouette(self.distances, clusters)
        self.sizes[num_new] = torch.bincount(clusters[free]).tolist()
        probed = [
            balanced_accuracy(self._cluster(view, num_new), torch.where(view < 0, self.labels, -1))
            for view in self.hidden
        ]
        self.accuracy[num_new] = sum(probed) / len(probed) if probed else 0.0

    def _cluster(self, visible: torch.Tensor, num_new: int) -> torch.Tensor:
        clusters: torch.Tensor = self.clusterer(
            features=self.features,
            labels=visible,
            num_clusters=self.num_known + num_new,
            generator=self.generator,
        )
        return clusters


def _principal(features: torch.Tensor, width: int, generator: torch.Generator) -> torch.Tensor:
    """Project features to about their ``width`` leading principal directions."""
    if features.shape[1] <= width:
        return features
    start = torch.randn(
        features.shape[1],
        width,
        generator=generator,
        dtype=features.dtype,
        device=generator.device,
    )
    # two power iterations separate the leading directions from the others
    basis = start.to(features.device)
    for _ in range(3):
        basis, _ = torch.linalg.qr(features.T @ (features @ basis))
    return features @ basis


def _with_few_restarts(clusterer: Clusterer) -> Clusterer:
    """Return the clusterer with ``n_init`` of at most `FEW_RESTARTS`, if it has ``n_init``."""
    restarts = getattr(clusterer, "n_init", FEW_RESTARTS)
    if restarts <= FEW_RESTARTS:
        return clusterer
    return clusterer.model_copy(update={"n_init": FEW_RESTARTS})


def _search(trials: _CandidateScores, most: int) -> None:
    """Try all candidates, or a coarse grid that is refined around the best candidates."""
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
    """Return the candidates within ``tolerance`` of the highest value, ascending."""
    enough = max(curve.values()) - tolerance
    return sorted(candidate for candidate, value in curve.items() if value >= enough)


def _nearest(candidates: list[int], target: int) -> int:
    """Return the candidate nearest to the target, on a tie the smaller."""
    return min(candidates, key=lambda candidate: abs(candidate - target))


def middle_of_best(
    sharpness: dict[int, float],
    accuracy: dict[int, float],
    *,
    sharpness_noise: float = SILHOUETTE_NOISE,
    accuracy_noise: float = ACCURACY_NOISE,
) -> int:
    """Return the mean, rounded up, of the best candidates by silhouette and by accuracy.

    Both curves are noisy and often flat. The best candidate by silhouette is the smallest within
    the silhouette's noise of the maximum. The best candidate by accuracy is, of those within the
    accuracy's noise of the maximum, the nearest to the best by silhouette.

    Example:
        >>> middle_of_best({1: 0.1, 4: 0.9}, {1: 0.8, 2: 0.75, 4: 0.4})
        3
    """
    sharp = min(_good(sharpness, sharpness_noise))
    return math.ceil((sharp + _nearest(_good(accuracy, accuracy_noise), sharp)) / 2)


def count_large(sizes: list[int], *, start: int = 0) -> int:
    """Count the clusters from ``start`` with more than 1 % of the largest cluster's samples.

    Example:
        >>> count_large([1000, 11, 10, 0])
        2
    """
    return sum(size > 0.01 * max(sizes) for size in sizes[start:])


def _subsample(
    labels: torch.Tensor, most_unlabelled: int, generator: torch.Generator
) -> torch.Tensor:
    """Return ascending positions of a random subset of each known class and the unlabelled."""
    order = torch.randperm(len(labels), generator=generator, device=generator.device)
    order = order.to(labels.device)
    kept = []
    for label in torch.unique(labels).tolist():
        most = most_unlabelled if label < 0 else MOST_PER_CLASS
        kept.append(order[labels[order] == label][:most])
    return torch.cat(kept).sort().values


def _hide_half(labels: torch.Tensor, num_known: int, generator: torch.Generator) -> torch.Tensor:
    """Return labels with half of the classes set to -1 and the others numbered from 0."""
    order = torch.randperm(num_known, generator=generator, device=generator.device)
    anchors = order.to(labels.device)[num_known // 2 :]
    names = labels.new_full((num_known + 1,), -1)
    names[anchors] = torch.arange(len(anchors), device=labels.device)
    return names[labels]  # label -1 indexes the last entry, which is -1
