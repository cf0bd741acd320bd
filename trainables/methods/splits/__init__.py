"""Splits into known and new classes, one per file; base class `Split`."""

from trainables.methods.method import Method


class Split(Method):
    """Choice of the classes that are held out as new.

    ``(*, num_classes, num_novel, superclasses, seed) -> sorted list of novel class ids``.
    """
