"""Versions of a model as tables of outcomes, whose answers are known image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trainables.inference.model import Predictions
from trainables.inference.outcomes import Outcomes, image_table

NAMES = ("caracal", "lynx", "ocelot", "serval", "tabby")


class Photo:
    """An image: its class, group and part, and how hard it is, 0 to 1."""

    def __init__(self, digest: str, label: str, part: str, hard: float, group: str = "") -> None:
        self.digest, self.label, self.part, self.hard = digest, label, part, hard
        self.group = group or digest


def photos(
    names: Sequence[str] = NAMES, train: int = 30, test: int = 40, start: int = 0
) -> list[Photo]:
    """Return images of classes, as many test images of each difficulty."""
    found = []
    for name in names:
        for number in range(start, start + train):
            found.append(Photo(f"{name}-train-{number}", name, "train", 0.0))
        for number in range(start, start + test):
            hard = (number - start + 0.5) / test
            found.append(Photo(f"{name}-test-{number}", name, "test", hard))
    return found


def right_below(skill: float, others: Sequence[str] = NAMES) -> Callable[[Photo], str]:
    """Return answers that are right on the share ``skill`` of each class's test images."""

    def answer(photo: Photo) -> str:
        wrong = others[(list(others).index(photo.label) + 1) % len(others)]
        return photo.label if photo.hard < skill else wrong

    return answer


def version(
    images: Sequence[Photo],
    answer: Callable[[Photo], str],
    *,
    known: Callable[[Photo], bool] = lambda photo: True,
    stated: float = 0.9,
    classes: Sequence[str] = (),
    **more: object,
) -> Outcomes:
    """Return the table of a model that was made from images and answers as it is told."""
    table = image_table(*zip(*((p.digest, p.part, p.label, p.group) for p in images), strict=True))
    names = tuple(classes) or tuple(sorted({p.label for p in images}))
    asked = [photo for photo in images if photo.part == "test"]
    said = [answer(photo) for photo in asked]
    answers = Predictions(
        class_index=np.array([names.index(name) for name in said], dtype=np.int64),
        class_name=said,
        probability=np.full(len(asked), stated, dtype=np.float32),
        confidence=np.full(len(asked), stated, dtype=np.float32),
        known=np.array([known(photo) for photo in asked], dtype=bool),
    )
    outcomes = Outcomes(table, names, **more)  # type: ignore[arg-type]
    return outcomes.with_answers("test", [photo.digest for photo in asked], answers)
