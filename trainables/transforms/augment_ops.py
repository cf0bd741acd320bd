"""RandAugment's and AutoAugment's operations on a batch, with one operation per image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from trainables.transforms import color_ops
from trainables.transforms.image_ops import affine, change_chosen

NAMES = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness", "posterize", "solarize"),
    *("autocontrast", "equalize", "invert"),
)  # an operation's number is its index
IDENTITY, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = range(6)
BRIGHTNESS, COLOR, CONTRAST, SHARPNESS, POSTERIZE, SOLARIZE = range(6, 12)
AUTOCONTRAST, EQUALIZE, INVERT = range(12, 15)

# color operations on a batch, with one strength from -1 to 1 per image
_COLORS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: lambda images, strength: color_ops.brightness(images, 1 + 0.9 * strength),
    COLOR: lambda images, strength: color_ops.saturation(images, 1 + 0.9 * strength),
    CONTRAST: lambda images, strength: color_ops.contrast(images, 1 + 0.9 * strength),
    SHARPNESS: lambda images, strength: color_ops.sharpness(images, 1 + 0.9 * strength),
    POSTERIZE: lambda images, strength: color_ops.posterize(
        images, 8 - (4 * strength.abs()).round().long()
    ),
    SOLARIZE: lambda images, strength: color_ops.solarize(
        images, (255 * (1 - strength.abs())).float()
    ),
    AUTOCONTRAST: lambda images, _: color_ops.autocontrast(images),
    EQUALIZE: lambda images, _: color_ops.equalize(images),
    INVERT: lambda images, _: 255 - images,
}


def apply_operations(
    images: Tensor, operations: Tensor, strengths: Tensor, *, fill: int = 0
) -> Tensor:
    """Apply one operation to each image, given the operation's number and strength.

    At strength 1, shears are by 0.3, translations by 150/331 of the width or height, rotations by
    30 degrees, color factors are 1.9, posterize keeps 4 bits and solarize inverts all pixels.

    Args:
        images: uint8 ``[B, 3, H, W]``; not changed.
        operations: Numbers ``[B]``, indices into `NAMES`; on the CPU or on the device of the images
            (see `change_chosen`).
        strengths: ``[B]`` float64 in [-1, 1], on the device of ``operations``. A negative strength
            shears, translates or rotates in the opposite direction, or blends with a factor below
            1; the other operations ignore the sign.
        fill: Value of each channel in areas that shear, translate or rotate uncover.
    """
    height, width = images.shape[2:]
    geometric = (operations >= SHEAR_X) & (operations <= ROTATE)
    maps = matrices(operations, strengths, height, width)
    images = change_chosen(images.clone(), geometric, partial(affine, fill=fill), maps)
    for number, change in _COLORS.items():
        images = change_chosen(images, operations == number, change, strengths)
    return images


def signed(part: float | Tensor, negative: Tensor) -> Tensor:
    """Return strengths (see `apply_operations`): ``part`` in [0, 1] with a sign.

    Example:
        >>> signed(0.25, torch.tensor([False, True])).tolist()
        [0.25, -0.25]
    """
    return torch.where(negative, -1.0, 1.0).double() * part


def matrices(operations: Tensor, strengths: Tensor, height: int, width: int) -> Tensor:
    """Return the affine maps ``[B, 2, 3]`` of shear, translate and rotate (see `affine`).

    Shears leave the upper left corner in place, rotations the center; translations are whole
    pixels.
    """
    shear, angle = (0.3 * strengths).float(), torch.deg2rad(30.0 * strengths)
    shift_x, shift_y = (150 / 331 * size * strengths for size in (width, height))
    maps = torch.zeros(len(operations), 2, 3, device=operations.device)
    maps[:, 0, 0] = maps[:, 1, 1] = torch.where(operations == ROTATE, angle.cos(), 1.0)
    rotated = torch.where(operations == ROTATE, angle.sin(), 0.0)
    maps[:, 0, 1] = torch.where(operations == SHEAR_X, shear, -rotated)
    maps[:, 1, 0] = torch.where(operations == SHEAR_Y, shear, rotated)
    maps[:, 0, 2] = torch.where(operations == SHEAR_X, shear * height / 2, 0.0)
    maps[:, 0, 2] -= torch.where(operations == TRANSLATE_X, shift_x.trunc(), 0.0)
    maps[:, 1, 2] = torch.where(operations == SHEAR_Y, shear * width / 2, 0.0)
    maps[:, 1, 2] -= torch.where(operations == TRANSLATE_Y, shift_y.trunc(), 0.0)
    return maps
