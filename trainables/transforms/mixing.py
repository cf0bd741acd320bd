"""Sample mixing: the random choices for a batch (`Mix`), and the mixed values."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch


class Mix(NamedTuple):
    """Random choices that mix the samples of one batch in pairs.

    Args:
        partner: Index of each sample's partner, a permutation ``[B]`` int64.
        share: mixup's lambda, the weight of a sample's values, in [0, 1]; the partner's values have
            weight ``1 - share``.
        labels: First label of each mixed sample ``[B]``.
        partner_labels: Second label ``[B]``.
        label_share: Weight of the first labels in the loss, in [0, 1], one number for all samples.
            For a sample with only one label, both labels are equal.
        place: Mix the images, a hidden layer or the features.
        depth: Relative depth of the hidden layer in [0, 1): 0 the images, near 1 the last but one.
        box: ``(top, bottom, left, right)``: replace this box by the partner's, in place of a
            weighted mean.
        pasted: Images that replace those of the batch before the mix; if the images are only
            replaced, each sample is its own partner with share 1.
    """

    partner: torch.Tensor
    share: float
    labels: torch.Tensor
    partner_labels: torch.Tensor
    label_share: float | torch.Tensor
    place: Literal["images", "hidden", "features"] = "images"
    depth: float = 0.0
    box: tuple[int, int, int, int] | None = None
    pasted: torch.Tensor | None = None


def paired(labels: torch.Tensor, share: float, partner: torch.Tensor) -> Mix:
    """Return a mix with the same weight for values and labels (mixup).

    Example:
        >>> mix = paired(torch.tensor([3, 5]), 0.7, torch.tensor([1, 0]))
        >>> mix.partner_labels.tolist(), mix.label_share
        ([5, 3], 0.7)
    """
    return Mix(partner, share, labels, labels[partner], share)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """Draw mixup's lambda from the Beta(alpha, alpha) distribution."""
    # torch.distributions.Beta accepts no generator
    return float(np.random.default_rng(_seed(generator)).beta(alpha, alpha))


def draw_partners(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a permutation of the samples of a batch, on the device of the labels."""
    # from a separate generator, because later draws from `generator` must not depend on the batch
    # size: workers whose last batches differ in size would draw different lambdas from then on
    partner_generator = torch.Generator().manual_seed(_seed(generator))
    order = torch.randperm(len(labels), generator=partner_generator)
    return order.to(labels.device, non_blocking=True)


def mixed_values(values: torch.Tensor, mix: Mix) -> torch.Tensor:
    """Return ``share * v_i + (1 - share) * v_partner(i)``, or ``v_i`` with the partner's box.

    Averaged uint8 images become floating point in [0, 1]; with a box the type stays.

    Args:
        values: ``[B, ...]``; with a box ``[B, channels, height, width]``.
        mix: Partners, weight and box.

    Example:
        >>> mix = paired(torch.tensor([0, 1]), 0.75, torch.tensor([1, 0]))
        >>> mixed_values(torch.tensor([[4.0], [0.0]]), mix).flatten().tolist()
        [3.0, 1.0]
    """
    if mix.box is not None:
        top, bottom, left, right = mix.box
        pasted = values.clone()
        pasted[:, :, top:bottom, left:right] = values[mix.partner, :, top:bottom, left:right]
        return pasted
    if values.dtype == torch.uint8:
        values = values.float() / 255
    return values.lerp(values[mix.partner], 1 - mix.share)
