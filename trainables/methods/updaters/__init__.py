"""Ways to teach a classifier new classes in ``update``, one per file; base class `Updater`."""

from __future__ import annotations

from typing import ClassVar

from trainables.methods.method import Method


class Updater(Method):
    """A classifier of known and new classes, from frozen features with labels and pseudo-labels.

    ``(*, classifier, features [M, D], labels [M], weights [M], class_counts [C+K], num_labelled)
    -> Classifier``. The first ``num_labelled`` rows are labelled images of the C known classes, the
    others are images of the pool with pseudo-labels and weights in (0, 1]. Optional inputs are
    ``groups [M]`` of images that are left out together, and ``report``. If a method `trains`, its
    classifier is the start of the stage's training, otherwise the result.
    """

    trains: ClassVar[bool] = False
