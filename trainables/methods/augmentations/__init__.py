"""Augmentations, one per file; base class `Augmentation`."""

from trainables.methods.method import Method


class Augmentation(Method):
    """A random transform of a batch of images, with separate random parameters for each image.

    ``(*, images, generator) -> images``, both uint8 ``[B, 3, H, W]``; all random numbers are drawn
    from ``generator``.
    """
