"""CPU time per image of batched tensor augmentation, compared with torchvision's PIL pipeline.

Goals: crop + flip needs at most 1/12 of the PIL pipeline's CPU time, RandAugment at most 1/6. Both
sides use one thread and alternate; ratios are of median CPU time, which other processes on a shared
machine do not change. Before any timing, crop + flip must equal torchvision's bit by bit for the
same random numbers, and 256 copies of one image must give at least 100 (RandAugment: 150) distinct
results.

    python -m benchmarks.loader [--data /path/to/class/folders] [--images 4096] [--repeats 5]

Without ``--data`` the images are random. The command prints one JSON row per pipeline and exits
with 1 if a check fails or a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as official

from benchmarks.goals import judged
from trainables.artifacts import ImageView
from trainables.data.loader import Loader
from trainables.data.sources import load_source
from trainables.methods.augmentations import Augmentation
from trainables.methods.augmentations.crop_flip import CropFlip
from trainables.methods.augmentations.rand_augment import RandAugment
from trainables.transforms.image_ops import flip, padded_crop

BATCH = 128
DISTINCT = {"crop_flip": 100, "rand_augment": 150}
OURS: dict[str, Augmentation] = {"crop_flip": CropFlip(), "rand_augment": RandAugment()}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class PilImages(Dataset[torch.Tensor]):
    """Data set that converts an array to a PIL image and transforms it, as torchvision's CIFAR."""

    def __init__(self, images: np.ndarray, transform: Callable[..., torch.Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(official.to_pil_image(self.images[index]))


def pil_pipeline(name: str, size: int) -> transforms.Compose:
    """Return the torchvision transform that corresponds to an augmentation of this project."""
    steps: list[Callable[..., object]] = [
        transforms.RandomCrop(size, padding=max(1, round(4 * size / 32))),
        transforms.RandomHorizontalFlip(),
    ]
    if name == "rand_augment":
        steps.append(transforms.RandAugment(num_ops=2, magnitude=9))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def run_pil(images: np.ndarray, name: str) -> float:
    """Return the CPU seconds of one epoch through a ``DataLoader`` without worker processes."""
    loader = DataLoader(
        PilImages(images, pil_pipeline(name, images.shape[1])), batch_size=BATCH, shuffle=True
    )
    start = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - start


def run_ours(loader: Loader, order: torch.Tensor, generator: torch.Generator) -> float:
    """Return the CPU seconds of one epoch of normalized float batches from our loader."""
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    std = torch.tensor(STD).view(1, 3, 1, 1)
    start = time.process_time()
    for batch in loader.epoch(positions=order, generator=generator):
        (batch.images.float() * (1 / 255 / std)).sub_(mean / std)
    return time.process_time() - start


def check(images: np.ndarray) -> list[str]:
    """Return one line per failed check of our augmentations."""
    wrong = []
    some = torch.from_numpy(images[:256].copy()).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(0)
    size, count = some.shape[2], len(some)
    top, left = torch.randint(9, (2, count), generator=generator)
    chosen = torch.randint(2, (count,), generator=generator).bool()
    found = flip(padded_crop(some, top=top, left=left, padding=4), chosen)
    for n, image in enumerate(some):
        wanted = official.crop(official.pad(image, [4] * 4), int(top[n]), int(left[n]), size, size)
        if not torch.equal(found[n], official.hflip(wanted) if chosen[n] else wanted):
            wrong.append(f"crop + flip of image {n} differs from torchvision")
    for name, augmentation in OURS.items():
        copies = some[:1].expand(256, -1, -1, -1)
        out = augmentation(images=copies, generator=generator)  # type: ignore[operator]
        distinct = len(torch.unique(out.flatten(1), dim=0))
        if distinct < DISTINCT[name]:
            wrong.append(f"{name}: {distinct} distinct of 256 copies, goal {DISTINCT[name]}")
    return wrong


def read_images(data: Path | None, count: int) -> np.ndarray:
    """Return real images from a folder, or random images without one."""
    rng = np.random.default_rng(0)
    if data is None:
        return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    start = time.perf_counter()
    source = load_source(f"folder:{data}", data, cache=Path("data/.cache"))
    seconds = time.perf_counter() - start
    print(json.dumps({"load": str(data), "images": len(source.images), "seconds": seconds}))
    chosen = rng.permutation(len(source.images))[:count]
    return source.images[np.sort(chosen)]


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = read_images(options.data, options.images)
    wrong = check(images)
    view = ImageView(images, np.arange(len(images)), "benchmark")
    generator = torch.Generator().manual_seed(0)
    for name, augmentation in OURS.items():
        loader = Loader(view, batch_size=BATCH, augmentation=augmentation)
        times: dict[str, list[float]] = {"torchvision_pil": [], "ours": []}
        for _ in range(options.repeats):
            order = torch.randperm(len(images), generator=generator)
            times["ours"].append(run_ours(loader, order, generator))
            times["torchvision_pil"].append(run_pil(images, name))
        micro = {k: statistics.median(v) / len(images) * 1e6 for k, v in times.items()}
        ratio = micro["ours"] / micro["torchvision_pil"]
        row = {
            "benchmark": f"loader/{name}",
            "cpu_microseconds_per_image": {k: round(v, 1) for k, v in micro.items()},
            "spread": {k: round(max(v) / min(v), 2) for k, v in times.items()},
            "ratio": round(ratio, 4),
            "baseline": "torchvision PIL",
            **judged(f"loader/{name}", "torchvision PIL", ratio),
            "repeats": options.repeats,
            "images": len(images),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        print(json.dumps(row))
        if not row["passed"]:
            wrong.append(f"{name}: ratio {ratio:.3f}, goal {row['goal']}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
