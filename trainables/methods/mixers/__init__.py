"""Sample mixing (mixup, CutMix), one method per file; base class `Mixer`."""

from typing import Annotated

from pydantic import Field

from trainables.methods.method import Choice, Method

# fraction of training after which mixing stops, to fine-tune on unmixed samples
Until = Annotated[float, Field(gt=0, le=1), Choice((0.8, 0.9, 1.0))]
# both parameters of the Beta distribution; below 1 most lambdas are near 0 or 1
Alpha = Annotated[float, Field(gt=0, le=100)]


class Mixer(Method):
    """Mixing of the samples and labels of a batch in pairs, or synthesis of new images.

    ``(*, images, labels, class_counts, progress, generator) -> Mix``, or ``None`` for an unmixed
    batch. The generators of all workers have one seed, so all workers draw the same lambda. The
    optional input ``class_activation() -> [B, H, W]`` is a function that returns the class
    activation maps of the images.
    """
