"""Color operations on batches of uint8 images, equal to torchvision's on each image.

``factor`` is one number per image ``[B]``: 1 leaves the image unchanged, 0 gives the image that it
is blended with.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, rounded as in PIL and torchvision


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(images, torch.zeros((), device=images.device), factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean gray of the image."""
    return _blend(images, _gray(images).float().mean(dim=(1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the gray image."""
    return _blend(images, _gray(images).float(), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the smoothed image; border pixels stay unchanged."""
    if min(images.shape[2:]) <= 2:
        return images
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5.0
    smooth = images.float()
    smooth[:, :, 1:-1, 1:-1] = conv2d(smooth, kernel / 13.0, groups=3).round_()
    return _blend(images, smooth, factor)


def grayscale(images: Tensor, chosen: Tensor) -> Tensor:
    """Turn the ``chosen`` (bool ``[B]``) images gray."""
    return torch.where(chosen[:, None, None, None], _gray(images), images)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of each image by ``shift`` turns ``[B]``, in [-0.5, 0.5]."""
    red, green, blue = (images.float() / 255.0).unbind(1)
    high, _ = torch.stack([red, green, blue]).max(0)
    low, _ = torch.stack([red, green, blue]).min(0)
    gray = high == low
    spread = high - low
    safe = torch.where(gray, torch.ones_like(spread), spread)  # gray has no hue: avoid 0/0
    to_red, to_green, to_blue = ((high - channel) / safe for channel in (red, green, blue))
    angle = torch.where(
        high == red,
        to_blue - to_green,
        torch.where(high == green, 2.0 + to_red - to_blue, 4.0 + to_green - to_red),
    )
    turned = torch.remainder(angle / 6.0 + 1.0 + shift[:, None, None], 1.0)
    part = torch.where(gray, torch.zeros_like(spread), spread / high.clamp(min=1e-12))
    return _from_hsv(turned, part, high, images.dtype)


def _from_hsv(turn: Tensor, part: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert hue, saturation and value, all in [0, 1] ``[B, H, W]``, to RGB ``[B, 3, H, W]``."""
    channels = []
    for offset in (5.0, 3.0, 1.0):  # value - value * part * clamp(min(k, 4 - k), 0, 1)
        position = torch.remainder(offset + turn * 6.0, 6.0)
        ramp = torch.minimum(position, 4.0 - position).clamp(0.0, 1.0)
        channels.append(value - value * part * ramp)
    # torchvision's conversion to uint8 cuts into 256 equal intervals instead of rounding
    return (torch.stack(channels, dim=1) * (256.0 - 1e-3)).clamp_(0, 255).to(dtype)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` (int64 ``[B]``) bits of each pixel."""
    mask = 256 - torch.ones_like(bits).bitwise_left_shift(8 - bits)
    return images & mask.to(images.dtype).view(-1, 1, 1, 1)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert pixels of at least ``threshold`` ``[B]``."""
    return torch.where(images >= threshold.view(-1, 1, 1, 1), 255 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a constant channel stays unchanged."""
    low = images.amin(dim=(2, 3), keepdim=True).float()
    high = images.amax(dim=(2, 3), keepdim=True).float()
    flat = low == high
    scale = torch.where(flat, torch.ones_like(low), 255.0 / (high - low).clamp(min=1.0))
    low = torch.where(flat, torch.zeros_like(low), low)
    return ((images.float() - low) * scale).clamp_(0, 255).to(images.dtype)


def equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of each channel by a lookup table."""
    count, channels, height, width = images.shape
    pixels = images.reshape(count * channels, height * width).long()
    histogram = torch.zeros(len(pixels), 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, pixels, torch.ones_like(pixels))
    largest = pixels.amax(dim=1, keepdim=True)
    last = histogram.gather(1, largest)
    step = (height * width - last) // 255
    before = histogram.cumsum(1) - histogram
    table = (before + step // 2) // step.clamp(min=1)
    mapped = table.clamp_(0, 255).gather(1, pixels)
    mapped = torch.where(step == 0, pixels, mapped)  # a (nearly) constant channel stays unchanged
    return mapped.view(images.shape).to(images.dtype)


def _gray(images: Tensor) -> Tensor:
    """Return the luma ``[B, 1, H, W]`` in the images' type, truncated as in torchvision."""
    red, green, blue = images.float().unbind(1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return luma.to(images.dtype)[:, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return ``factor * images + (1 - factor) * other``, clamped to uint8."""
    # the difference is computed before the cast, because torchvision's factor is a Python float
    weight, other_weight = (part.float().view(-1, 1, 1, 1) for part in (factor, 1.0 - factor))
    mixed = weight * images.float() + other_weight * other
    return mixed.clamp_(0, 255).to(images.dtype)
