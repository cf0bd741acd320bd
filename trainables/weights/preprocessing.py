"""What images a network was trained on: their size, colors, and how they were resized and cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainables.errors import ConfigError

INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
COLORS = 3


class Preprocessing(NamedTuple):
    """Preprocessing of images for some weights.

    ``image_size`` is the height and width of the center square that is kept, ``crop_fraction`` that
    over the shorter side of the resized image; ``mean`` and ``std`` are of red, green and blue
    values from 0 to 1.
    """

    image_size: int
    interpolation: str
    crop_fraction: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def text(self) -> str:
        """Return it in words, for a log.

        Example:
            >>> Preprocessing(224, "bicubic", 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).text()
            '224 pixels, bicubic, crop fraction 0.875, mean 0.5 0.5 0.5, std 0.5 0.5 0.5'
        """
        mean, std = (" ".join(f"{value:g}" for value in part) for part in (self.mean, self.std))
        return (
            f"{self.image_size} pixels, {self.interpolation}, crop fraction "
            f"{self.crop_fraction:g}, mean {mean}, std {std}"
        )


def preprocessing_of(config: Mapping[str, Any], owner: str) -> Preprocessing:
    """Return the preprocessing of a ``pretrained_cfg`` of timm, with timm's defaults.

    Args:
        config: The config.
        owner: What the config belongs to, for messages.

    Raises:
        ConfigError: The network is not for RGB squares, or a value can't be used.
    """
    try:
        channels, height, width = (int(n) for n in config.get("input_size") or (3, 224, 224))
        found = Preprocessing(
            image_size=width,
            interpolation=str(config.get("interpolation") or "bicubic"),
            crop_fraction=float(config.get("crop_pct") or 0.875),
            mean=tuple(float(value) for value in config.get("mean") or (0.485, 0.456, 0.406)),
            std=tuple(float(value) for value in config.get("std") or (0.229, 0.224, 0.225)),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{owner}: its preprocessing cannot be read: {error}") from None
    if channels != COLORS or height != width:
        raise ConfigError(
            f"{owner}: takes images of {channels} channels and {height}x{width} pixels; allowed: "
            "squares of 3 channels"
        )
    if not all(len(part) == COLORS for part in (found.mean, found.std)) or min(found.std) <= 0:
        raise ConfigError(
            f"{owner}: mean and std must be 3 numbers, std above 0; received "
            f"{list(found.mean)} and {list(found.std)}"
        )
    if found.interpolation not in INTERPOLATIONS or not 0 < found.crop_fraction <= 1:
        raise ConfigError(
            f"{owner}: interpolation must be one of {', '.join(INTERPOLATIONS)} and crop_pct in "
            f"0..1; received {found.interpolation} and {found.crop_fraction:g}"
        )
    return found
