from __future__ import annotations

import torch

from trainables.features.matching import adjusted_rand, match_clusters, mutual_information
from trainables.methods.metrics import Metric


class Clustering(Metric):
    """How well clusters agree with true classes.

    ``accuracy`` = share of samples whose cluster is matched with their class by the best one-to-one
    matching of clusters and classes (Hungarian) over **all** samples; ``accuracy_known`` and
    ``accuracy_novel`` = the same matching, counted on the samples of known (new) classes; matching
    each part on its own ("v1" in the literature) flatters. ``accuracy_balanced`` = mean over the
    classes, the right one for a long tail. ``nmi`` (arithmetic mean) and ``ari`` need no matching.

    Shapes:
        assignments [N] int64 >= 0, labels [N] int64 >= 0; num_known int (optional): labels below
        it are known classes. Gives ``clustering/...``: fractions in [0, 1], ari in [-0.5, 1];
        higher = better.

    More clusters than classes: samples in clusters without a class count as wrong. No sample gives
    an empty dictionary; a part without samples is left out.

    Source:
        Vaze et al. 2022, "Generalized Category Discovery", arXiv 2201.02609, section 4.1;
        sgvaze/generalized-category-discovery cluster_and_log_utils.py, ``split_cluster_acc_v2``;
        balanced: CVMI-Lab/SimGCD.

    Example:
        >>> assignments, labels = torch.tensor([5, 5, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 0])
        >>> result = Clustering()(assignments=assignments, labels=labels, num_known=1)
        >>> result["clustering/accuracy"], result["clustering/accuracy_novel"]
        (0.8, 1.0)
    """

    def __call__(
        self, *, assignments: torch.Tensor, labels: torch.Tensor, num_known: int | None = None
    ) -> dict[str, float]:
        if len(labels) == 0:
            return {}
        _, clusters = assignments.unique(return_inverse=True)
        match = match_clusters(clusters, labels, num_clusters=int(clusters.max()) + 1)
        right = (match[clusters] == labels).double().cpu()
        given, true = clusters.cpu(), labels.cpu()
        per_class = torch.stack([right[true == label].mean() for label in true.unique()])
        result = {
            "accuracy": float(right.mean()),
            "accuracy_balanced": float(per_class.mean()),
            "nmi": mutual_information(true, given),
            "ari": adjusted_rand(true, given),
        }
        if num_known is not None:
            for name, part in (("known", true < num_known), ("novel", true >= num_known)):
                if part.any():
                    result[f"accuracy_{name}"] = float(right[part].mean())
        return {f"clustering/{name}": value for name, value in result.items()}
