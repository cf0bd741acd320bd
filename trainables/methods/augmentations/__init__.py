"""Shelf: augmentations. One file per method; the contract is `Augmentation`."""

from trainables.methods.method import Method


class Augmentation(Method):
    """A whole-batch transform, random per sample.

    ``(*, images, generator) -> images``: uint8 ``[B, 3, H, W]`` in and out, each sample with its
    own draw from ``generator``.
    """
