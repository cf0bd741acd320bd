"""Predictions of a registered version for image files, in this process.

The code that MLflow stored beside the weights is not run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from trainables.data.decode import decode_file
from trainables.errors import ConfigError, readable
from trainables.inference.card import Card
from trainables.inference.model import Model, load_model

if TYPE_CHECKING:
    from orchestrator.registry.versions import Registry
    from trainables.data.source_cache import Images

BATCH = 64


class Prediction(BaseModel):
    """Prediction of a model for one image; see `trainables.inference.model.Predictions`.

    ``pretrained_on`` is that of `trainables.inference.card.Card`.
    """

    image: str
    class_index: int
    class_name: str
    probability: float
    confidence: float
    known: bool
    pretrained_on: str


def open_version(registry: Registry, model: str, version_or_alias: str) -> Model:
    """Load a version's model with the installed code instead of the code in the version.

    Raises:
        ConfigError: The model, version or alias does not exist, or is not an exported model.
    """
    with tempfile.TemporaryDirectory() as draft:
        try:
            folder = registry.download(model, version_or_alias, Path(draft) / "model")
        except LookupError as error:
            raise ConfigError(str(error.args[0])) from None
        return load_model(folder)


def predict_files(model: Model, files: Sequence[Path]) -> list[Prediction]:
    """Return one prediction per image file, in the order of the files.

    Every format and size that training takes is accepted. Files are decoded one at a time, and
    kept at the model's size.

    Raises:
        ConfigError: A file is missing or not an image; nothing is returned then.
    """
    images = ((readable(str(file)), _read(file, model.card)) for file in files)
    return [prediction for batch in _batches(images) for prediction in _predictions(model, batch)]


def _predictions(model: Model, batch: list[tuple[str, Images]]) -> Iterator[Prediction]:
    found = model.answer(np.stack([image for _, image in batch]))
    for position, (name, _) in enumerate(batch):
        yield Prediction(
            image=name,
            class_index=int(found.class_index[position]),
            class_name=found.class_name[position],
            probability=float(found.probability[position]),
            confidence=float(found.confidence[position]),
            known=bool(found.known[position]),
            pretrained_on=model.card.pretrained_on,
        )


def _batches(images: Iterable[tuple[str, Images]]) -> Iterator[list[tuple[str, Images]]]:
    stream = iter(images)
    while batch := list(islice(stream, BATCH)):
        yield batch


def _read(file: Path, card: Card) -> Images:
    """Read and decode an image file, resized and cut as in the model's training."""
    try:
        return decode_file(str(file), card.image_size, card.fitting)
    except ValueError as error:
        raise ConfigError(f"{readable(str(file))}: {error}") from None


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """Return predictions as a table, one row per image."""
    table = Table(box=None, pad_edge=False)
    for name in ("image", "class", "probability", "confidence", "known"):
        table.add_column(name, style="bold" if name == "class" else "")
    for prediction in predictions:
        table.add_row(
            Text(prediction.image),
            Text(readable(prediction.class_name)),
            f"{prediction.probability:.3f}",
            f"{prediction.confidence:.3f}",
            Text("known") if prediction.known else Text("unknown", style="yellow"),
        )
    return table
