"""Shelf: distillers. One file per method; the contract is `Distiller`."""

from trainables.methods.method import Method


class Distiller(Method):
    """Keeps a student near its teachers: a scalar, higher = further away.

    ``(*, student_logits [B, C+K], old_logits [B, C], new_logits [B, K], ...) -> scalar``, a mean
    over the batch: the old model teaches the C known classes, the label generator the K new ones.
    """
