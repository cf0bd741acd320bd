"""Stage `discover`: clusters and pseudo-labels of the pool samples that were called unknown."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.artifacts import (
    Features,
    LabelledView,
    OutOfFold,
    PoolLabels,
    PoolSelection,
    PseudoLabels,
    StreamFeatures,
)
from trainables.closed_form.groups import folds_of_groups, judging
from trainables.closed_form.out_of_fold import FOLDS
from trainables.closed_form.statistics import samples
from trainables.context import Context
from trainables.experiment import Discover
from trainables.features.clustering import estimate_num_clusters, known_quality
from trainables.functional.to_device import to_device

PROVIDES = {
    "clusterer": frozenset({"features", "labels", "num_clusters", "generator"}),
    "pseudo_labeler": frozenset(
        {"assignments", "features", "num_known", "num_clusters", "pool_labels"}
    ),
}


class Discovered(NamedTuple):
    """Artifact of the stage."""

    pseudo_labels: PseudoLabels


def run(
    settings: Discover,
    *,
    features: Features,
    stream_features: StreamFeatures,
    known_train: LabelledView,
    validation_known: LabelledView,
    pool_selection: PoolSelection,
    out_of_fold: OutOfFold,
    pool_labels: PoolLabels | None = None,
    context: Context,
) -> Discovered:
    """Cluster the selected pool samples together with the labelled samples of known classes.

    Known validation samples are clustered too, with hidden labels. The reported quality is the
    clustering accuracy on them, because a clusterer may fix labelled samples to their class. Where
    answers out of fold stand in for validation samples, a fifth of the training samples of classes
    of at least 3 groups has hidden labels, in whole groups. Only an ``oracle`` pseudo-labeler, an
    upper bound that promotion refuses, gets ``pool_labels``. An empty selection gives no clusters
    and no labels. Distances are computed on the context's device.
    """
    positions = pool_selection.positions
    if len(positions) == 0:
        empty = torch.zeros(0, dtype=torch.int64)
        return Discovered(PseudoLabels(empty, empty, torch.zeros(0), 0, {}))
    known, labelled, probe, truth = _labelled_and_probe(
        features, known_train, validation_known, out_of_fold, context
    )
    known, probe, pool = (
        part.to(context.device) for part in (known, probe, stream_features.pool[positions])
    )
    both = torch.cat([known, probe, pool])
    hidden = torch.full((len(probe) + len(pool),), -1)
    labels = torch.cat([labelled, hidden]).to(context.device)
    num_new = _num_new(settings, both, labels, len(pool), context)
    clusters = settings.clusterer(
        features=both,
        labels=labels,
        num_clusters=known_train.num_classes + num_new,
        generator=context.generator("discover", "clusters"),
    )
    ends = len(known), len(known) + len(probe)
    quality = known_quality(clusters[ends[0] : ends[1]].cpu(), truth)
    available = {
        "assignments": clusters[ends[1] :],
        "features": pool,
        "num_known": known_train.num_classes,
        "num_clusters": known_train.num_classes + num_new,
    }
    if pool_labels is not None:
        available["pool_labels"] = torch.from_numpy(pool_labels.labels)[positions]
        num_new = pool_labels.num_novel
    assigned, weights = to_device(
        settings.pseudo_labeler.call_with(to_device(available, context.device)), "cpu"
    )
    assigned, weights, num_new = _drop_empty(assigned, weights, known_train.num_classes, num_new)
    oracle = settings.pseudo_labeler.oracle
    return Discovered(PseudoLabels(positions, assigned, weights, num_new, quality, oracle))


def _labelled_and_probe(
    features: Features,
    known_train: LabelledView,
    validation_known: LabelledView,
    out_of_fold: OutOfFold,
    context: Context,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features and labels of the labelled samples, and of those whose labels are hidden."""
    labels = torch.from_numpy(known_train.labels)
    if not len(out_of_fold.logits):
        truth = torch.from_numpy(validation_known.labels)
        return features.known_train, labels, features.validation_known, truth
    data = samples(features.known_train, labels, groups=out_of_fold.groups)
    generator = context.generator("discover", "probe")
    folds = folds_of_groups(data.groups, labels, count=FOLDS, generator=generator)
    hidden = (folds == 0) & judging(data, known_train.num_classes)
    hidden = ~torch.isin(data.groups, data.groups[~hidden])  # a group of a rare class too stays
    kept, probe = data.part(~hidden), data.part(hidden)
    return kept.features, kept.labels, probe.features, probe.labels


def _num_new(
    settings: Discover, features: Tensor, labels: Tensor, pool_size: int, context: Context
) -> int:
    """Return the configured or estimated number of new clusters, at most one per pool sample."""
    if settings.num_new_clusters is not None:
        return min(settings.num_new_clusters, pool_size)
    estimate = estimate_num_clusters(
        settings.clusterer,
        features=features,
        labels=labels,
        max_new=min(settings.max_new_clusters, pool_size),
        generator=context.generator("discover", "estimate"),
    )
    return estimate.num_new


def _drop_empty(
    labels: Tensor, weights: Tensor, num_known: int, num_new: int
) -> tuple[Tensor, Tensor, int]:
    """Drop new clusters without a sample of positive weight, and renumber the others."""
    used = labels[(weights > 0) & (labels >= num_known)].unique()
    lookup = torch.full((num_known + max(num_new, 1),), -1, dtype=torch.int64)
    lookup[:num_known] = torch.arange(num_known)
    lookup[used] = num_known + torch.arange(len(used))
    renumbered = torch.where(labels >= 0, lookup[labels.clamp(min=0)], labels)
    return renumbered, weights * (renumbered >= 0), len(used)
