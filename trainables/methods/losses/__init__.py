"""Shelf: losses. One file per method; the contract is `Loss`."""

from trainables.methods.method import Method


class Loss(Method):
    """A training loss over a batch: higher = worse, a mean over the batch.

    ``(*, logits or features or projections, labels, class_counts, progress, ...) -> scalar``.
    State-free: class counts come in at the call, so they stay right when new classes arrive.
    """
