"""Clusterers of features, one per file; base class `Clusterer`."""

from trainables.methods.method import Method


class Clusterer(Method):
    """Clustering of features, given the labels of some samples.

    ``(*, features, labels, num_clusters, generator) -> assignments [N]`` int64 in
    ``0..num_clusters-1``. ``labels [N]`` are int64 with -1 = unknown; ``num_clusters`` is the
    number of known classes plus that of new clusters. Cluster c < C is known class c.
    """
