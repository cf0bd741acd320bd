"""Shelf: clusterers. One file per method; the contract is `Clusterer`."""

from trainables.methods.method import Method


class Clusterer(Method):
    """Groups features, given the labels of some of them.

    ``(*, features, labels, num_clusters, generator) -> assignments [N]`` int64 in
    ``0..num_clusters-1``; ``labels [N]`` int64 with -1 = unknown, ``num_clusters`` counts known
    classes and new clusters together. Where labels are used, cluster c is known class c.
    """
