"""Shelf: profiles. One file per method; the contract is `Profile`."""

from trainables.methods.method import Method


class Profile(Method):
    """How many training images each known class keeps.

    ``(*, num_classes, max_count) -> counts [C] int64``, non-increasing.
    """
