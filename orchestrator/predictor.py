"""A registered version answers for image files, in this process; no code of it is run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from trainables.errors import ConfigError
from trainables.inference import Model, load_model
from trainables.uploads import DEFAULT_LIMITS, Limits, UploadError, decode_file

if TYPE_CHECKING:
    from orchestrator.registry import Registry
    from trainables.source_cache import Images

BATCH = 64


class Answer(BaseModel):
    """What a model says of one image; see `trainables.inference.Predictions`."""

    image: str
    class_index: int
    class_name: str
    probability: float
    confidence: float
    known: bool


def open_version(registry: Registry, model: str, version_or_alias: str) -> Model:
    """Load a version's weights; the code that was stored with them is not used.

    Raises:
        ConfigError: There is no such model, version or alias, or it is no exported model.
    """
    with tempfile.TemporaryDirectory() as draft:
        try:
            folder = registry.download(model, version_or_alias, Path(draft) / "model")
        except LookupError as error:
            raise ConfigError(str(error.args[0])) from None
        return load_model(folder)


def predict_files(
    model: Model, files: Sequence[Path], limits: Limits = DEFAULT_LIMITS
) -> list[Answer]:
    """Answer for image files, in their order.

    Raises:
        ConfigError: A file is missing, too large, or no image; nothing is answered then.
    """
    images = ((str(file), _read(file, limits)) for file in files)
    return [answer for batch in _batches(images) for answer in _answers(model, batch)]


def _answers(model: Model, batch: list[tuple[str, Images]]) -> Iterator[Answer]:
    found = model.predict([image for _, image in batch])
    for position, (name, _) in enumerate(batch):
        yield Answer(
            image=name,
            class_index=int(found.class_index[position]),
            class_name=found.class_name[position],
            probability=float(found.probability[position]),
            confidence=float(found.confidence[position]),
            known=bool(found.known[position]),
        )


def _batches(images: Iterable[tuple[str, Images]]) -> Iterator[list[tuple[str, Images]]]:
    stream = iter(images)
    while batch := list(islice(stream, BATCH)):
        yield batch


def _read(file: Path, limits: Limits) -> Images:
    """Read and decode a file; one that is too large is not read."""
    try:
        size = file.stat().st_size
        if size > limits.bytes:  # not even read
            raise UploadError(f"the file has {size:,} bytes; at most {limits.bytes:,} are accepted")
        return decode_file(file.read_bytes(), limits)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except UploadError as error:
        raise ConfigError(f"{file}: {error}") from None


def answers_table(answers: Sequence[Answer]) -> Table:
    """Return what a model said of images, one line each."""
    table = Table(box=None, pad_edge=False)
    for name in ("image", "class", "probability", "confidence", "known"):
        table.add_column(name, style="bold" if name == "class" else "")
    for answer in answers:
        table.add_row(
            Text(answer.image),
            Text(answer.class_name),
            f"{answer.probability:.3f}",
            f"{answer.confidence:.3f}",
            Text("known") if answer.known else Text("unknown", style="yellow"),
        )
    return table
