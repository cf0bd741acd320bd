"""Shelf: self_trainers. One file per method; the contract is `SelfTrainer`."""

from trainables.methods.method import Method


class SelfTrainer(Method):
    """Labels further images of the known classes by what a first classifier says of them.

    ``(*, logits) -> (pseudo_labels [N] int64, weights [N])``: weights at least 0, 0 = left out. A
    method that says by `reads` that it takes the view ``unlabelled`` makes the stage train twice:
    the first classifier on the labelled images, the one that stays on these and the others.
    """
