"""What a model says of an image in words: its class, how sure it is, and how strange it looks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainables.artifacts import ImageView
from trainables.data.source_cache import Images
from trainables.inference.model import Model, Outputs
from trainables.inference.reference import Strangeness


class Answer(NamedTuple):
    """Answer of a model to one image.

    ``class_name`` is the most probable class and ``probability`` its calibrated softmax,
    ``second_class`` and ``second_probability`` those of the next one (``None`` with a single
    class). ``known`` is the verdict: whether ``confidence`` reaches the model's threshold. Where it
    is false the image shows no class of the model, and ``class_name`` is only the nearest one.
    ``strangeness`` counts the known images that look as strange; ``None`` in models that were
    exported before it was stored. ``met_classes`` are those of the two classes that the backbone
    was trained on before, as far as its labels tell.

    Example:
        >>> found = Answer(0, "lynx", 0.61, "ocelot", 0.33, 2.5, False, Strangeness(3, 900), ())
        >>> found.nearest, f"{found.share:.4f}"
        ('lynx', '0.0033')
    """

    class_index: int
    class_name: str
    probability: float
    second_class: str | None
    second_probability: float | None
    confidence: float
    known: bool
    strangeness: Strangeness | None
    met_classes: tuple[str, ...]

    @property
    def nearest(self) -> str | None:
        """The class that an unknown image is nearest to; ``None`` for a known one."""
        return None if self.known else self.class_name

    @property
    def share(self) -> float | None:
        """The share of known images that look as strange; see `Strangeness`."""
        return None if self.strangeness is None else self.strangeness.share


def answer_images(model: Model, images: Images) -> list[Answer]:
    """Return an answer for each image, uint8 ``[N, S, S, 3]`` of the model's size.

    `Model.fit` brings images of other sizes to it.
    """
    return answers_of(model, model.outputs(ImageView(images, np.arange(len(images)), "")))


def answers_of(model: Model, outputs: Outputs) -> list[Answer]:
    """Return what a model's outputs for N images say in words."""
    probabilities, order = outputs.logits.softmax(1).sort(dim=1, descending=True, stable=True)
    known, strange = model.known(outputs).tolist(), model.strangeness(outputs)
    names, met = model.card.class_names, frozenset(model.card.met_classes)
    found = []
    for row, (first, *others) in enumerate(order[:, :2].tolist()):
        shown = [names[index] for index in (first, *others)]
        found.append(
            Answer(
                class_index=first,
                class_name=shown[0],
                probability=float(probabilities[row, 0]),
                second_class=shown[1] if others else None,
                second_probability=float(probabilities[row, 1]) if others else None,
                confidence=float(outputs.confidence[row]),
                known=known[row],
                strangeness=None if strange is None else strange[row],
                met_classes=tuple(name for name in shown if name in met),
            )
        )
    return found
