"""`orchestrator.fit`: what the command does, from Python, and the model that it gives."""

from __future__ import annotations

import io
import os
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.start import fit_photos
from orchestrator.options import EXPORTED, folder_of_model
from trainables.errors import ConfigError, short

if TYPE_CHECKING:
    import pandas as pd

    from trainables.data.data_settings import Fitting
    from trainables.data.source_cache import Images
    from trainables.inference.model import Model


class FittedModel:
    """The model of a fit, whether the gates made it champion or not, and its record.

    Args:
        record: The record. A storage that is no absolute path is one of the working folder of now.
    """

    def __init__(self, record: FitRecord) -> None:
        self.record = record
        self._folder = folder_of_model(record.storage, record.model) / EXPORTED

    def __repr__(self) -> str:
        promotion = self.record.promotion
        version = promotion.version if promotion else None
        refused = "" if promotion is None or promotion.promoted else ", refused"
        return f"FittedModel('{self.record.model}', version {version}{refused})"

    @cached_property
    def model(self) -> Model:
        """The loaded model."""
        from trainables.inference.model import load_model

        return load_model(self._folder)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the model knows."""
        return self.model.card.class_names

    @property
    def rehearsal(self) -> pd.DataFrame:
        """One row per class that played new: how often it was noticed, and taken for what."""
        import json

        from trainables.rehearsal.outcome import Rehearsal

        return Rehearsal.from_json(json.dumps(self.record.rehearsal)).frame()

    def predict(self, images: Any) -> Any:
        """Return the answer to an image, or a list of answers to a list of images.

        See `trainables.inference.answers.Answer`. Files and PIL images are read as in training: any
        format, mode and size, turned upright. Of many images one at a time is in memory.

        Args:
            images: A path, a PIL image or an array uint8 ``[H, W, 3]``, or a list of such.

        Raises:
            ConfigError: A file is no image, or something is none of these.
        """
        import numpy as np

        from trainables.inference.answers import answer_images

        several = isinstance(images, list | tuple)
        asked = images if several else [images]
        size = self.model.card.image_size
        fitted = np.empty((len(asked), size, size, 3), dtype=np.uint8)
        for place, image in enumerate(asked):
            fitted[place] = _fitted(image, size, self.model.card.fitting)
        answers = answer_images(self.model, fitted) if len(asked) else []
        return answers if several else answers[0]


def _fitted(image: Any, size: int, fitting: Fitting) -> Images:
    """Return an image as the model takes it, uint8 ``[size, size, 3]``.

    Example:
        >>> from PIL import Image
        >>> from trainables.data.data_settings import USUAL_FITTING
        >>> _fitted(Image.new("L", (4, 2)), 2, USUAL_FITTING).shape
        (2, 2, 3)
    """
    import numpy as np
    from PIL import Image

    from trainables.data.decode import decode_file, to_rgb
    from trainables.data.source_cache import fit_image

    if isinstance(image, str | os.PathLike):
        try:
            return decode_file(os.fspath(image), size, fitting)
        except ValueError as error:
            raise ConfigError(f"{os.fspath(image)}: {error}") from None
    if isinstance(image, Image.Image):
        try:
            return fit_image(to_rgb(image), size, fitting)
        except Exception as error:  # what it was opened from may be cut off, closed or gone
            raise ConfigError(f"predict: a PIL image can't be read, {error}") from None
    if not isinstance(image, np.ndarray):
        received = short(type(image).__name__)
    elif image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        received = f"an array {image.dtype} {list(image.shape)}"
    else:
        return fit_image(image, size, fitting)
    raise ConfigError(
        f"predict: an image is a path, a PIL image or an array uint8 [H, W, 3]; received {received}"
    )


def fit(photos: str | Path, *, quiet: bool = False, **options: Any) -> FittedModel:
    """Fit a model to a folder of photos, as the command ``fit`` does, and return it.

    Args:
        photos: Folder with one folder of images per class.
        quiet: Print nothing.
        **options: Those of `orchestrator.fitting.fit_options.FitOptions`; files and folders as text
            or paths.

    Raises:
        ConfigError: The photos, the backbone or an option can't be used.

    Example:
        >>> model = fit("photos")  # doctest: +SKIP
        >>> model.predict("new.jpg").class_name  # doctest: +SKIP
        'lynx'
    """
    from pydantic import ValidationError

    from orchestrator.fitting.fit_options import FitOptions
    from orchestrator.fitting.progress_lines import Lines
    from trainables.errors import explain

    if not isinstance(photos, str | os.PathLike):
        received = short(type(photos).__name__)
        raise ConfigError(f"photos: must be the path of a folder; received {received}")
    if not str(photos).strip():
        raise ConfigError("photos: must not be empty")  # as a path it is the working folder
    told = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in options.items()}
    try:
        asked = FitOptions(photos=Path(photos), **told)
    except ValidationError as error:
        raise ConfigError(explain(FitOptions, error.errors()[0], "fit")) from None
    return FittedModel(fit_photos(asked, Lines(io.StringIO() if quiet else sys.stdout)))
