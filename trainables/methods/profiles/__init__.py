"""Class-size profiles of long-tailed training sets, one per file; base class `Profile`."""

from trainables.methods.method import Method


class Profile(Method):
    """Number of training images of each known class.

    ``(*, num_classes, max_count) -> counts [C] int64``, non-increasing.
    """
