"""The 14 operations of RandAugment on a batch in which every image has its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from trainables import color_ops
from trainables.image_ops import affine, change_chosen

STRENGTHS = 31
IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = range(6)
BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE, AUTOCONTRAST, EQUALIZE = range(6, 14)
NUM_OPERATIONS = 14

_BLENDS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: color_ops.brightness,
    COLOR: color_ops.saturation,
    CONTRAST: color_ops.contrast,
    SHARPNESS: color_ops.sharpness,
}


def apply_operations(
    images: Tensor, operations: Tensor, negative: Tensor, magnitude: int
) -> Tensor:
    """Apply to each image the operation of its number.

    Args:
        images: uint8 ``[B, 3, H, W]``; not changed.
        operations: Numbers ``[B]`` in 0..13; on the CPU or on the device of the images, see
            `change_chosen`.
        negative: Bool ``[B]``: shear, translate or rotate the other way, or blend with a factor
            below 1 in place of above; other operations have no sign.
        magnitude: Strength, 0 to 30.
    """
    part = magnitude / (STRENGTHS - 1)
    height, width = images.shape[2:]
    geometric = (operations >= SHEAR_X) & (operations <= ROTATE)
    maps = matrices(operations, negative, part, height, width)
    images = change_chosen(images.clone(), geometric, affine, maps)
    factors = torch.where(negative, 1 - 0.9 * part, 1 + 0.9 * part)
    for number in range(BRIGHTNESS, NUM_OPERATIONS):
        change = partial(_color, number=number, part=part)
        images = change_chosen(images, operations == number, change, factors)
    return images


def _color(images: Tensor, factor: Tensor, *, number: int, part: float) -> Tensor:
    """Apply one color operation to all images."""
    if number in _BLENDS:
        return _BLENDS[number](images, factor)
    if number == POSTERIZE:
        return color_ops.posterize(images, 8 - round(4 * part))
    if number == SOLARIZE:
        return color_ops.solarize(images, 255.0 * (1.0 - part))
    return color_ops.autocontrast(images) if number == AUTOCONTRAST else color_ops.equalize(images)


def matrices(operations: Tensor, negative: Tensor, part: float, height: int, width: int) -> Tensor:
    """Return the affine maps ``[B, 2, 3]`` of shear, translate and rotate (see `affine`).

    ``part`` is the strength from 0 to 1. Shears keep the upper left corner, rotations the centre;
    translations are whole pixels.
    """
    sign = torch.where(negative, -1.0, 1.0)
    shear = 0.3 * part
    shift_x, shift_y = int(150 / 331 * width * part), int(150 / 331 * height * part)
    angle = math.radians(30.0 * part)
    maps = torch.zeros(len(operations), 2, 3, device=operations.device)
    maps[:, 0, 0] = maps[:, 1, 1] = torch.where(operations == ROTATE, math.cos(angle), 1.0)
    rotated = torch.where(operations == ROTATE, sign * math.sin(angle), 0.0)
    maps[:, 0, 1] = torch.where(operations == SHEAR_X, sign * shear, -rotated)
    maps[:, 1, 0] = torch.where(operations == SHEAR_Y, sign * shear, rotated)
    maps[:, 0, 2] = torch.where(operations == SHEAR_X, sign * shear * height / 2, 0.0)
    maps[:, 0, 2] -= torch.where(operations == TRANSLATE_X, sign * shift_x, 0.0)
    maps[:, 1, 2] = torch.where(operations == SHEAR_Y, sign * shear * width / 2, 0.0)
    maps[:, 1, 2] -= torch.where(operations == TRANSLATE_Y, sign * shift_y, 0.0)
    return maps
