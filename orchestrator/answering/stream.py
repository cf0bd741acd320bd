"""Predictions for image files, as they are answered: one group in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from orchestrator.answering.named_images import GROUP, Named, Unreadable
from trainables.data.decode import decode_all
from trainables.errors import ConfigError, readable
from trainables.inference.answers import Answer, answer_images
from trainables.inference.model import Model


class Prediction(BaseModel):
    """Answer of a model to one image file; see `trainables.inference.answers.Answer`.

    ``share`` of ``known_images`` look as strange as the image. ``pretrained_on`` is that of
    `trainables.inference.card.Card`.
    """

    image: str
    class_index: int
    class_name: str
    probability: float
    second_class: str | None = None
    second_probability: float | None = None
    known: bool
    nearest: str | None = None
    confidence: float
    share: float | None = None
    known_images: int | None = None
    met_classes: tuple[str, ...] = ()
    pretrained_on: str

    @classmethod
    def of(cls, image: str, answer: Answer, pretrained_on: str) -> Prediction:
        """Return an answer with the name of its file, in letters that any terminal takes."""
        fields = answer._asdict()
        strangeness = fields.pop("strangeness")
        return cls(
            image=readable(image),
            nearest=answer.nearest,
            share=answer.share,
            known_images=None if strangeness is None else strangeness.of,
            pretrained_on=pretrained_on,
            **fields,
        )


def predictions(
    model: Model, groups: Iterable[Sequence[Named]]
) -> Iterator[Prediction | Unreadable]:
    """Return one prediction for each name, in order, as its group is answered.

    Every format and size that training takes is accepted. A file that can't be read has its reason
    in the place of a prediction.

    Args:
        model: The model.
        groups: Names of files; those of one group are decoded and answered together.
    """
    for group in groups:
        yield from _answered(model, group)


def predict_files(model: Model, files: Sequence[Path]) -> list[Prediction]:
    """Return one prediction per image file, in the order of the files.

    Raises:
        ConfigError: A file is missing or not an image; nothing is returned then.
    """
    names = [str(file) for file in files]
    groups = (names[start : start + GROUP] for start in range(0, len(names), GROUP))
    found = []
    for prediction in predictions(model, groups):
        if isinstance(prediction, Unreadable):
            raise ConfigError(f"{readable(prediction.image)}: {prediction.reason}")
        found.append(prediction)
    return found


def _answered(model: Model, group: Sequence[Named]) -> list[Prediction | Unreadable]:
    """Return predictions for a group, in its order."""
    files = [name for name in group if isinstance(name, str)]
    size = model.card.image_size
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    heads = decode_all(files, list(images), model.card.fitting)
    reasons = {name: head.reason for name, head in zip(files, heads, strict=True) if head.reason}
    good = [position for position, name in enumerate(files) if name not in reasons]
    answers = iter(answer_images(model, images[good]) if good else ())
    found: list[Prediction | Unreadable] = []
    for name in group:
        if isinstance(name, Unreadable):
            found.append(name)
        elif name in reasons:
            found.append(Unreadable(name, reasons[name]))
        else:
            found.append(Prediction.of(name, next(answers), model.card.pretrained_on))
    return found
