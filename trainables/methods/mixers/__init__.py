"""Shelf: mixers. One file per method; the contract is `Mixer`."""

from typing import Annotated

from pydantic import Field

from trainables.methods.method import Choice, Method

# A share of training, for a mixer's last part: the rest of the run fine-tunes on plain samples.
Until = Annotated[float, Field(gt=0, le=1), Choice((0.8, 0.9, 1.0))]
# Both parameters of the Beta distribution; below 1 most pairs are nearly one of the two samples.
Alpha = Annotated[float, Field(gt=0, le=100)]


class Mixer(Method):
    """Mixes the samples of a batch in pairs, and their labels with them, or makes new images.

    ``(*, images, labels, class_counts, progress, generator) -> Mix``, or ``None`` for a batch that
    stays as it is. All workers get generators of one seed, so they mix with one share. The function
    ``class_activation() -> [B, H, W]`` shows where in the images the model sees their classes.
    """
