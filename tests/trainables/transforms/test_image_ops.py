"""Batched image operations, each compared with torchvision per sample."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision import transforms
from torchvision.transforms import functional as official
from torchvision.transforms.autoaugment import AutoAugment as OfficialAutoAugment
from torchvision.transforms.autoaugment import AutoAugmentPolicy, _apply_op
from torchvision.transforms.autoaugment import RandAugment as OfficialRandAugment
from torchvision.transforms.functional import InterpolationMode

from trainables.methods.augmentations.auto_augment import SUB_POLICIES, AutoAugment
from trainables.methods.augmentations.rand_augment import NUM_OPERATIONS
from trainables.transforms import augment_ops, color_ops, image_ops
from trainables.transforms.augment_ops import apply_operations, signed

NAMES = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Invert",
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 12, height: int = 32, width: int = 32) -> torch.Tensor:
    """Smooth and noisy images, a gray one, a flat one, and one of a single other pixel."""
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=seeded())
    ramp = torch.linspace(0, 200, width).to(torch.uint8)
    images[0] = ramp
    images[1] = torch.stack([ramp.expand(height, -1), 200 - ramp.expand(height, -1), images[1, 0]])
    images[2] = 77
    images[3] = 0
    images[3, :, 4, 5] = 255
    images[4] = images[4, :1]  # gray noise
    images[5] //= 4  # dark
    return images


@pytest.mark.parametrize(("height", "width", "padding"), [(32, 32, 4), (8, 8, 1), (9, 14, 3)])
def test_crop_and_flip_equal_torchvision_bit_for_bit(height: int, width: int, padding: int) -> None:
    images = batch(64, height, width)
    offsets = torch.randint(2 * padding + 1, (2, 64), generator=seeded(1))
    mirrored = torch.randint(2, (64,), generator=seeded(2)).bool()
    cropped = image_ops.padded_crop(images, top=offsets[0], left=offsets[1], padding=padding)
    found = image_ops.flip(cropped, mirrored)
    for n, image in enumerate(images):
        top, left = int(offsets[0, n]), int(offsets[1, n])
        wanted = official.crop(official.pad(image, [padding] * 4), top, left, height, width)
        wanted = official.hflip(wanted) if mirrored[n] else wanted
        assert torch.equal(found[n], wanted)


def test_crop_as_large_as_the_image_is_refused() -> None:
    zero = torch.zeros(12, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"padding must be >= 1, .*32x32.*received 0"):
        image_ops.padded_crop(batch(), top=zero, left=zero, padding=0)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("brightness", 0), ("contrast", 1), ("saturation", 1), ("sharpness", 1)]
)
def test_blends_equal_torchvision(name: str, tolerance: int) -> None:
    images = batch()
    factors = torch.linspace(0.1, 1.9, len(images))
    found = getattr(color_ops, name)(images, factors)
    word = name if name != "sharpness" else "sharpness"
    adjust = getattr(official, f"adjust_{word}")
    wanted = torch.stack(
        [adjust(image, float(f)) for image, f in zip(images, factors, strict=True)]
    )
    # One level: float32 sums in another order may fall on the other side of a cut-off.
    assert (found.int() - wanted.int()).abs().max() <= tolerance


def test_hue_equals_torchvision() -> None:
    images = batch()
    shifts = torch.linspace(-0.5, 0.5, len(images))
    found = color_ops.hue(images, shifts)
    wanted = torch.stack(
        [official.adjust_hue(i, float(s)) for i, s in zip(images, shifts, strict=True)]
    )
    assert (found.int() - wanted.int()).abs().max() <= 1


def test_grayscale_equals_torchvision_where_chosen() -> None:
    images = batch()
    chosen = torch.arange(len(images)) % 2 == 0
    found = color_ops.grayscale(images, chosen)
    for n, image in enumerate(images):
        wanted = official.rgb_to_grayscale(image, 3) if chosen[n] else image
        assert torch.equal(found[n], wanted)


@pytest.mark.parametrize("bits", [0, 1, 4, 7, 8])
def test_posterize_equals_torchvision(bits: int) -> None:
    wanted = official.posterize(batch(), bits) if bits else torch.zeros_like(batch())
    assert torch.equal(color_ops.posterize(batch(), torch.full((12,), bits)), wanted)


@pytest.mark.parametrize("threshold", [0.0, 100.5, 128.0, 255.0])
def test_solarize_equals_torchvision(threshold: float) -> None:
    wanted = official.solarize(batch(), threshold)
    assert torch.equal(color_ops.solarize(batch(), torch.full((12,), threshold)), wanted)


def test_each_image_is_posterized_and_solarized_by_its_own_number() -> None:
    images = batch()
    bits, thresholds = torch.arange(12) % 9, torch.linspace(0, 255, 12)
    posterized = color_ops.posterize(images, bits)
    solarized = color_ops.solarize(images, thresholds)
    for n, image in enumerate(images):
        wanted = official.posterize(image, int(bits[n])) if bits[n] else torch.zeros_like(image)
        assert torch.equal(posterized[n], wanted)
        assert torch.equal(solarized[n], official.solarize(image, float(thresholds[n])))


def test_autocontrast_and_equalize_equal_torchvision() -> None:
    images = batch()
    wanted = torch.stack([official.autocontrast(image) for image in images])
    assert torch.equal(color_ops.autocontrast(images), wanted)
    wanted = torch.stack([official.equalize(image) for image in images])
    assert torch.equal(color_ops.equalize(images), wanted)


def test_resized_crop_equals_torchvision() -> None:
    images = batch(40)
    boxes = image_ops.random_boxes(40, (32, 32), seeded(3), scale=(0.08, 1.0))
    found = image_ops.resized_crop(images, boxes)
    for n, image in enumerate(images):
        top, left, tall, wide = (int(part[n]) for part in boxes)
        wanted = official.resized_crop(image, top, left, tall, wide, [32, 32], antialias=False)
        # One level: bilinear weights in float32 from another formula, then rounded.
        assert (found[n].int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (20, 60)])
def test_boxes_follow_torchvision_distribution(size: tuple[int, int]) -> None:
    boxes = image_ops.random_boxes(4000, size, seeded(), scale=(0.2, 0.9))
    assert (boxes.top >= 0).all()
    assert (boxes.left >= 0).all()
    assert (boxes.top + boxes.height <= size[0]).all()
    assert (boxes.left + boxes.width <= size[1]).all()
    image = torch.zeros(3, *size)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        drawn = [
            transforms.RandomResizedCrop.get_params(image, [0.2, 0.9], [3 / 4, 4 / 3])
            for _ in range(4000)
        ]
    wanted = torch.tensor(drawn).float()
    found = torch.stack(list(boxes), dim=1).float()
    error = wanted.std(0) * math.sqrt(2 / 4000)
    assert ((found.mean(0) - wanted.mean(0)).abs() <= 4 * error + 1e-6).all()
    assert (found.std(0) / wanted.std(0).clamp(min=1e-6) - 1).abs().max() < 0.1


def test_cutout_blackens_a_clipped_square() -> None:
    white = torch.full((3, 3, 8, 8), 255, dtype=torch.uint8)
    out = image_ops.cutout(
        white, row=torch.tensor([4, 0, 7]), column=torch.tensor([4, 0, 3]), size=4
    )
    holes = (out[:, 0] == 0).sum((1, 2)).tolist()
    assert holes == [16, 4, 12]
    assert (out[1, :, :2, :2] == 0).all()


@pytest.mark.parametrize("magnitude", [0, 9, 20, 30])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (12, 20)])
def test_rand_augment_operations_equal_torchvision(magnitude: int, size: tuple[int, int]) -> None:
    space = OfficialRandAugment()._augmentation_space(31, size)
    assert tuple(space) == NAMES[:NUM_OPERATIONS]
    images = batch(2 * NUM_OPERATIONS, *size)
    operations = torch.arange(NUM_OPERATIONS).repeat(2)
    negative = torch.arange(2 * NUM_OPERATIONS) >= NUM_OPERATIONS
    found = apply_operations(images, operations, signed(magnitude / 30, negative))
    for n, image in enumerate(images):
        name = NAMES[int(operations[n])]
        values, has_sign = space[name]
        value = float(values[magnitude]) if values.ndim else 0.0
        value = -value if has_sign and negative[n] else value
        wanted = _apply_op(image, name, value, InterpolationMode.NEAREST, None)
        difference = (found[n].int() - wanted.int()).abs()
        if name in ("ShearX", "ShearY", "Rotate"):
            # A pixel whose source lies on the border of two pixels may take either.
            assert (difference > 0).float().mean() < 0.02, name
        else:
            assert difference.max() <= 1, name


class ExactAutoAugment(OfficialAutoAugment):  # type: ignore[misc]
    """Torchvision's, with given draws, and strengths that were not rounded to float32."""

    draws: tuple[int, torch.Tensor, torch.Tensor]

    def get_params(self, transform_num: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        assert transform_num == 25
        return self.draws

    def _augmentation_space(
        self, num_bins: int, image_size: tuple[int, int]
    ) -> dict[str, tuple[torch.Tensor, bool]]:
        space: dict[str, tuple[torch.Tensor, bool]]
        space = super()._augmentation_space(num_bins, image_size)
        ends = dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9)
        ends |= {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}
        ends |= {"TranslateX": 150 / 331 * image_size[1], "TranslateY": 150 / 331 * image_size[0]}
        for name, end in ends.items():
            rounded, has_sign = space[name]
            exact = torch.linspace(0, end, num_bins, dtype=torch.float64)
            assert torch.allclose(rounded.double(), exact, atol=0, rtol=1e-6)
            space[name] = exact, has_sign
        return space


def test_sub_policies_are_those_of_torchvision() -> None:
    names = dict(zip(NAMES, augment_ops.NAMES, strict=True))
    for ours, theirs in zip(
        SUB_POLICIES, OfficialAutoAugment(AutoAugmentPolicy.CIFAR10).policies, strict=True
    ):
        assert ours == tuple((names[name], p, level or 0) for name, p, level in theirs)


@pytest.mark.parametrize("fill", [0, 128])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (12, 20)])
def test_sub_policies_equal_torchvision_bit_for_bit(size: tuple[int, int], fill: int) -> None:
    count = 25 * 12
    images = batch(count, *size)
    policies = torch.arange(count) % 25
    chances = torch.rand(2, count, generator=seeded(1)) * 0.95
    negative = torch.randint(2, (2, count), generator=seeded(2)).bool()
    found = AutoAugment(fill=fill).changed(
        images, policies=policies, chances=chances, negative=negative
    )
    theirs = ExactAutoAugment(AutoAugmentPolicy.CIFAR10, fill=[float(fill)] * 3)
    for n, image in enumerate(images):
        theirs.draws = int(policies[n]), chances[:, n], (~negative[:, n]).long()
        assert torch.equal(found[n], theirs(image)), SUB_POLICIES[n % 25]


@pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
def test_changing_chosen_images_is_changing_all_and_keeping_the_chosen(part: float) -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (16, 3, 8, 8), generator=draws, dtype=torch.uint8)
    strengths = torch.rand(16, generator=draws) * 2
    chosen = torch.rand(16, generator=draws) < part
    for change in (color_ops.brightness, color_ops.contrast, color_ops.hue):
        found = image_ops.change_chosen(images.clone(), chosen, change, strengths)
        wanted = torch.where(chosen[:, None, None, None], change(images, strengths), images)
        assert torch.equal(found, wanted)
