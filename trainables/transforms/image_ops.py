"""Crop, flip, resize, erase and warp batches of uint8 images, with parameters for each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad


def random_integers(
    high: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw integers in ``0..high-1`` on the generator's device and move them to ``device``."""
    drawn = torch.randint(high, shape, generator=generator, device=generator.device)
    return drawn.to(device)


def random_uniform(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw float32 numbers in [0, 1) on the generator's device and move them to ``device``."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def random_bits(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw ``[count]`` fair coin tosses (bool)."""
    return random_integers(2, (count,), generator, device).bool()


def padded_crop(images: Tensor, *, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Pad with zeros and cut a window of the original size from each image.

    Args:
        images: ``[B, 3, H, W]``.
        top: First row of each window in the padded image ``[B]``, in ``0..2*padding``.
        left: First column of each window ``[B]``.
        padding: Pixels added per side.

    Raises:
        ValueError: ``padding`` is 0, so that every window is the whole image.
    """
    if padding < 1:
        raise ValueError(
            f"padded_crop: padding must be >= 1, because a crop of {images.shape[2]}x"
            f"{images.shape[3]} of an unpadded image changes nothing; received {padding}"
        )
    height, width = images.shape[2:]
    windows = pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    rows = torch.arange(len(images), device=images.device)
    return windows[rows, :, top, left]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Flip the ``chosen`` (bool ``[B]``) images horizontally."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, *, row: Tensor, column: Tensor, size: int) -> Tensor:
    """Set a square of ``size`` pixels centered on (``row``, ``column``) ``[B]`` to zero."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    low, high = size // 2, size - size // 2
    in_rows = (rows >= row[:, None] - low) & (rows < row[:, None] + high)
    in_columns = (columns >= column[:, None] - low) & (columns < column[:, None] + high)
    hole = in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(hole[:, None], 0)


def change_chosen(
    images: Tensor,
    chosen: Tensor,
    change: Callable[[Tensor, Tensor], Tensor],
    strengths: Tensor,
) -> Tensor:
    """Change the ``chosen`` images, in place where that is cheaper.

    With ``chosen`` on the CPU, only the chosen images are changed. On another device, selecting
    them would synchronize with the device, so all images are changed and `torch.where` keeps the
    others as they were. Both ways give the same images.

    Args:
        images: ``[B, 3, H, W]``; must not be used afterwards.
        chosen: Bool ``[B]``, on the CPU or on the device of the images.
        change: ``(images, strengths) -> images``; treats each image independently.
        strengths: Parameters of each image ``[B, ...]``, on the device of ``chosen``.
    """
    if chosen.device.type != "cpu":
        changed = change(images, strengths)
        return torch.where(chosen[:, None, None, None], changed, images)
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        some = strengths[rows].to(images.device)
        rows = rows.to(images.device)
        images[rows] = change(images[rows], some)
    return images


class Boxes(NamedTuple):
    """Crop rectangles in whole pixels, each ``[B]`` int64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def random_boxes(
    count: int,
    size: tuple[int, int],
    generator: torch.Generator,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Boxes:
    """Draw crop rectangles by the rule of torchvision's ``RandomResizedCrop``.

    The area is uniform in ``scale`` (fraction of the image), the aspect ratio log-uniform in
    ``ratio``. The first of ten rectangles that fits is returned, otherwise the largest centered
    one.
    """
    height, width = size
    device = generator.device
    uniform = torch.rand((4, count, 10), generator=generator, device=device, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * uniform[1])
    wide = torch.sqrt(area * aspect).round().long()
    tall = torch.sqrt(area / aspect).round().long()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)
    in_ratio = min(max(width / height, ratio[0]), ratio[1])
    fallback_wide = min(width, round(height * in_ratio))
    fallback_tall = min(height, round(width / in_ratio))
    wide = torch.where(any_fits, wide.gather(1, first)[:, 0], fallback_wide)
    tall = torch.where(any_fits, tall.gather(1, first)[:, 0], fallback_tall)
    top = (uniform[2, :, 0] * (height - tall + 1)).long()
    left = (uniform[3, :, 0] * (width - wide + 1)).long()
    top = torch.where(any_fits, top, (height - tall) // 2)
    left = torch.where(any_fits, left, (width - wide) // 2)
    return Boxes(top, left, tall, wide)


def resized_crop(images: Tensor, boxes: Boxes) -> Tensor:
    """Crop each image to its box and resize the crop bilinearly to the original size, as uint8."""
    height, width = images.shape[2:]
    top, left, tall, wide = (box.to(images.device).float() for box in boxes)
    rows = _source_positions(height, top, tall)
    columns = _source_positions(width, left, wide)
    grid = torch.stack(
        [
            ((columns * 2 + 1) / width - 1)[:, None, :].expand(-1, height, -1),
            ((rows * 2 + 1) / height - 1)[:, :, None].expand(-1, -1, width),
        ],
        dim=-1,
    )
    sampled = grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.round_().clamp_(0, 255).to(images.dtype)


def _source_positions(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Return the input positions of ``size`` output pixels ``[B, size]``."""
    steps = (torch.arange(size, device=start.device) + 0.5) / size
    inside = (steps * length[:, None] - 0.5).clamp(min=0)
    return start[:, None] + torch.minimum(inside, length[:, None] - 1)


def affine(images: Tensor, matrices: Tensor, *, fill: int = 0) -> Tensor:
    """Warp each image by an affine map with nearest-neighbor sampling.

    Args:
        images: ``[B, 3, H, W]``.
        matrices: Maps from output to input coordinates ``[B, 2, 3]``, in pixels from the center, as
            in torchvision's ``affine``.
        fill: Value of each channel outside of the image, 0 to 255.
    """
    height, width = images.shape[2:]
    device = images.device
    ones = torch.ones(height, width, device=device)
    columns = torch.arange(width, device=device).float() - width * 0.5 + 0.5
    rows = torch.arange(height, device=device).float() - height * 0.5 + 0.5
    base = torch.stack(
        [columns.expand(height, width), rows[:, None].expand(height, width), ones], dim=-1
    ).view(1, height * width, 3)
    half = torch.full((2,), 0.5 * width, device=device)  # torch.tensor(...) would synchronize
    half[1] = 0.5 * height
    grid = base @ (matrices.to(device).transpose(1, 2) / half)
    grid = grid.view(len(images), height, width, 2)
    moved = grid_sample(
        images.float() - fill, grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return (moved + fill).to(images.dtype)
