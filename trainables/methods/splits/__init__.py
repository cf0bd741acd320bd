"""Shelf: splits. One file per method; the contract is `Split`."""

from trainables.methods.method import Method


class Split(Method):
    """Chooses which classes are held out as new.

    ``(*, num_classes, num_novel, superclasses, seed) -> sorted list of novel class ids``.
    """
