"""Rebalancing of trained classifiers, one method per file; base class `Rebalancer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from trainables.methods.method import Method


class Rebalancer(Method):
    """Correction of a trained classifier for long-tailed training data, on frozen features.

    ``(*, classifier, features, labels, class_counts, generator) -> Classifier``. Optional inputs
    are ``groups`` of images that must not be parted, and ``validation_features``,
    ``validation_labels`` and ``report``, to choose among several settings. A method with
    ``backbone`` and ``pool`` in its `extra_views` also gets ``augmented_pool``, a function
    ``(augmentation, generator) -> [N, D]`` that returns the features of the unlabelled pool under
    an augmentation.

    ``from_features``: The result is fitted to the features alone, and does not depend on the given
    classifier's head, so that answers to training images can be had out of fold.
    ``picked``: A search over rebalancers has this function of the same inputs but validation
    images; it returns the rebalancer that answers out of fold choose.
    ``fit_out_of_fold``: A mixture of rebalancers has this function of the same inputs; it returns
    the classifier and its logits to the training images out of fold [N, C], or ``None``.
    """

    from_features: ClassVar[bool] = False
    picked: ClassVar[Callable[..., Any]]
    fit_out_of_fold: ClassVar[Callable[..., Any]]

    @property
    def answers_out_of_fold(self) -> bool:
        """Say whether there are answers to training images by fits without them."""
        return self.from_features or hasattr(self, "picked")

    @property
    def chooses(self) -> bool:
        """Say whether it chooses by answers to images that no trunk has trained on."""
        return self.needs_validation

    @property
    def needs_validation(self) -> bool:
        """Say whether the method chooses among settings by validation images alone."""
        return False
