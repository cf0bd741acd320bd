"""The class of each cluster, the agreement of two partitions (NMI, ARI), and the silhouette.

scikit-learn has the last three, and the tests compare with it to 1e-12. They are written out
because every recipe is evaluated by them, and ``import sklearn.metrics`` costs each process 1.3 s
of CPU: 9.2 s in place of 8.1 s for ``python -m trainables experiments/digits.yaml`` (medians of
five on a loaded 2-core machine). The Hungarian match is scipy's.
"""

from __future__ import annotations

import torch


def contingency(rows: torch.Tensor, columns: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Count pairs: ``table[r, c]`` = number of samples with row label r and column label c."""
    flat = torch.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1])
    return flat.view(shape)


def mutual_information(labels: torch.Tensor, assignments: torch.Tensor) -> float:
    """Return the mutual information of two partitions over the mean of their entropies (NMI).

    ``I(U, V) / ((H(U) + H(V)) / 2)`` in [0, 1]; 1 = the same partition up to names, also where both
    are a single part.

    Args:
        labels: One partition ``[N]`` int64, any values, N >= 1.
        assignments: The other ``[N]``.

    Example:
        >>> mutual_information(torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7, 3, 3]))
        1.0
    """
    joint = _table(labels, assignments).double() / len(labels)
    rows, columns = joint.sum(1), joint.sum(0)
    entropies = -(torch.xlogy(rows, rows).sum() + torch.xlogy(columns, columns).sum())
    if entropies == 0:
        return 1.0
    shared = (torch.xlogy(joint, joint) - torch.xlogy(joint, rows[:, None] * columns)).sum()
    return float((2 * shared / entropies).clamp(0, 1))


def adjusted_rand(labels: torch.Tensor, assignments: torch.Tensor) -> float:
    """Return the Rand index of two partitions, corrected for chance (ARI).

    ``(index - expected) / (mean of the parts - expected)`` over pairs of samples, in [-0.5, 1];
    0 = as by chance, 1 = the same partition up to names.

    Args:
        labels: One partition ``[N]`` int64, any values, N >= 1.
        assignments: The other ``[N]``.

    Source:
        Hubert & Arabie 1985, "Comparing partitions".

    Example:
        >>> round(adjusted_rand(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2])), 6)
        0.571429
    """
    table = _table(labels, assignments).double()
    pairs, rows, columns = (_pairs(t) for t in (table, table.sum(1), table.sum(0)))
    expected = rows * columns / max(_pairs(table.sum()), 1.0)
    most = (rows + columns) / 2
    return 1.0 if most == expected else (pairs - expected) / (most - expected)


def _table(labels: torch.Tensor, assignments: torch.Tensor) -> torch.Tensor:
    """Count pairs of names, whatever the names are."""
    names, rows = labels.unique(return_inverse=True)
    others, columns = assignments.unique(return_inverse=True)
    return contingency(rows, columns, (len(names), len(others)))


def _pairs(counts: torch.Tensor) -> float:
    """Return how many pairs lie within the parts of these sizes."""
    return float((counts * (counts - 1) / 2).sum())


def match_clusters(
    assignments: torch.Tensor, labels: torch.Tensor, *, num_clusters: int
) -> torch.Tensor:
    """Return the class of each cluster by the best one-to-one match (Hungarian), or -1.

    Args:
        assignments: Clusters ``[N]`` int64 in ``0..num_clusters-1``.
        labels: Classes ``[N]`` int64, -1 = unknown (not counted).
        num_clusters: K; may differ from the number of classes.

    Returns:
        ``[K]`` int64; -1 for a cluster without a class.

    Example:
        >>> match_clusters(torch.tensor([2, 2, 0, 1]), torch.tensor([0, 0, 1, -1]), num_clusters=3)
        tensor([ 1, -1,  0])
    """
    from scipy.optimize import linear_sum_assignment

    known = labels >= 0
    match = torch.full((num_clusters,), -1, dtype=torch.int64, device=assignments.device)
    if not known.any():
        return match
    shape = (num_clusters, int(labels.max()) + 1)
    table = contingency(assignments[known], labels[known], shape)
    rows, columns = linear_sum_assignment(table.cpu().numpy(), maximize=True)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        match[row] = column
    return match


def matched_accuracy(assignments: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of labelled samples whose cluster is matched to their class.

    One Hungarian match over all labelled samples; 0 where no sample is labelled.

    Example:
        >>> matched_accuracy(torch.tensor([1, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
        0.75
    """
    known = labels >= 0
    if not known.any():
        return 0.0
    clusters = int(assignments.max()) + 1
    match = match_clusters(assignments, labels, num_clusters=clusters)
    return float((match[assignments[known]] == labels[known]).double().mean())


def balanced_accuracy(assignments: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean over classes of the share of samples in the cluster matched to the class.

    The match maximizes this mean, not the number of samples: a class of five counts as much as one
    of five hundred. 0 where no sample is labelled.

    Example:
        >>> balanced_accuracy(torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 0, 0, 1, 1]))
        0.75
    """
    from scipy.optimize import linear_sum_assignment

    known = labels >= 0
    if not known.any():
        return 0.0
    _, truth = torch.unique(labels[known], return_inverse=True)
    shape = (int(truth.max()) + 1, int(assignments.max()) + 1)
    table = contingency(truth, assignments[known], shape).double()
    share = table / table.sum(dim=1, keepdim=True)
    rows, columns = linear_sum_assignment(share.cpu().numpy(), maximize=True)
    return float(share[rows, columns].sum() / shape[0])


def silhouette(distances: torch.Tensor, assignments: torch.Tensor) -> float:
    """Return the mean silhouette; 0 with fewer than two clusters in use.

    ``(b - a) / max(a, b)`` with the mean distance a to the own and b to the nearest other cluster;
    0 for a sample that is alone in its cluster.

    Args:
        distances: ``[N, N]``, zero on the diagonal.
        assignments: ``[N]`` int64.

    Example:
        >>> line = torch.tensor([[0.0], [1.0], [4.0]])
        >>> round(silhouette(torch.cdist(line, line), torch.tensor([0, 0, 1])), 4)
        0.4722

        The samples have 3/4, 2/3 and 0.
    """
    _, own = torch.unique(assignments, return_inverse=True)
    sizes = torch.bincount(own).to(distances.dtype)
    if len(sizes) < 2:
        return 0.0
    sums = distances @ torch.nn.functional.one_hot(own, len(sizes)).to(distances.dtype)
    others = sizes[own] - 1
    inside = sums.gather(1, own[:, None]).squeeze(1) / others.clamp(min=1)
    outside = (sums / sizes).scatter(1, own[:, None], torch.inf).amin(dim=1)
    larger = torch.maximum(inside, outside)
    value = torch.where(larger > 0, (outside - inside) / larger, 0.0)
    return float(torch.where(others > 0, value, 0.0).mean())
