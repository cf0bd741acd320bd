"""`orchestrator.fit`: what the command does, from Python, and the model that it gives."""

from __future__ import annotations

import io
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.fitting.fit_record import FitRecord
from orchestrator.fitting.service import EXPORTED
from orchestrator.fitting.start import MODELS, fit_photos
from orchestrator.options import local_folder
from trainables.errors import ConfigError, short

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from trainables.inference.model import Model


class FittedModel:
    """The model of a fit, and its record.

    Args:
        record: The record.
    """

    def __init__(self, record: FitRecord) -> None:
        self.record = record

    def __repr__(self) -> str:
        version = self.record.promotion.version if self.record.promotion else None
        return f"FittedModel('{self.record.model}', version {version})"

    @cached_property
    def model(self) -> Model:
        """The loaded model."""
        from trainables.inference.model import load_model

        root = local_folder(self.record.storage)
        return load_model(root / MODELS / self.record.model / EXPORTED)

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

        See `trainables.inference.answers.Answer`.

        Args:
            images: A path, a PIL image or an array uint8 ``[H, W, 3]``, or a list of such.

        Raises:
            ConfigError: A file is no image, or something is none of these.
        """
        from trainables.inference.answers import answer_images

        several = isinstance(images, list | tuple)
        pixels = [_pixels(image) for image in (images if several else [images])]
        answers = answer_images(self.model, self.model.fit(pixels)) if pixels else []
        return answers if several else answers[0]


def _pixels(image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return an image as uint8 ``[H, W, 3]``, upright.

    Example:
        >>> from PIL import Image
        >>> _pixels(Image.new("L", (4, 2))).shape
        (2, 4, 3)
    """
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                image = ImageOps.exif_transpose(opened)
                image.load()
        except (OSError, UnidentifiedImageError) as error:
            reason = getattr(error, "strerror", None) or "no image that can be read"
            raise ConfigError(f"{image}: {reason}") from None
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
        return image
    raise ConfigError(
        f"predict: an image is a path, a PIL image or an array uint8 [H, W, 3]; received "
        f"{short(type(image).__name__)}"
    )


def fit(photos: str | Path, *, quiet: bool = False, **options: Any) -> FittedModel:
    """Fit a model to a folder of photos, as the command ``fit`` does, and return it.

    Args:
        photos: Folder with one folder of images per class.
        quiet: Print nothing.
        **options: Those of `orchestrator.fitting.fit_options.FitOptions`.

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

    try:
        asked = FitOptions(photos=Path(photos), **options)
    except ValidationError as error:
        raise ConfigError(explain(FitOptions, error.errors()[0], "fit")) from None
    return FittedModel(fit_photos(asked, Lines(io.StringIO() if quiet else sys.stdout)))
