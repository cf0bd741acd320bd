"""Distillation losses of ``update``, one per file; base class `Distiller`."""

from trainables.methods.method import Method


class Distiller(Method):
    """Distance of a student to its teachers, a scalar to minimize.

    ``(*, student_logits [B, C+K], old_logits [B, C], new_logits [B, K], ...) -> scalar``, a mean
    over the batch. The old model is the teacher of the C known classes, the cluster teacher
    (cosines to cluster centers) that of the K new classes.
    """
