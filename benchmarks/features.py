"""Features of image files: CPU time beside a bare loop, and memory while 20,000 images stream.

Goals:

- Extraction from a folder (listing, heads, digests, decoding, resizing, embedding, storing) takes
  at most 1.1 times the CPU time of a loop that decodes, resizes and embeds, with equal features.
- A second extraction of the folder, grown by a tenth, costs its new images.
- While 20,000 images of 224 pixels are extracted, memory grows by at most 1.5 GB beyond the
  model's own.

    python -m benchmarks.features [--repeats 3] [--images 200] [--streamed 20000]

Times are CPU seconds of a process with one computing thread; its decoding threads count. Freed
memory is kept, as in every command, for both sides; a row without a goal has the loop in a process
whose allocator is as it comes (see `trainables.memory`). Photos are generated: JPEG files of
500x375 pixels for the times, of 256x256 for the memory.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks import print_row
from orchestrator.store.feature_shards import FeatureShards
from orchestrator.store.filesystem import LocalBackend
from trainables.artifacts import ImageView
from trainables.data import image_files
from trainables.data.sources import load_source
from trainables.memory import keep_freed_memory
from trainables.models.backbone import Trunk, build_trunk, extract_features

NETWORK, SMALL_NETWORK, SIZE, BATCH = "efficientnet_lite0", "lcnet_035", 224, 32
MOST_GIGABYTES = 1.5
CLASSES = 4
AS_IT_COMES = "bare loop, its allocator as it comes"


def photos(folder: Path, count: int, size: tuple[int, int], kinds: int = 50) -> Path:
    """Write JPEG files, all different as files; of ``kinds`` different pictures."""
    draws = np.random.default_rng(0)
    contents = []
    for _ in range(min(kinds, count)):
        coarse = draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = folder / "one.jpg"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        contents.append(path.read_bytes())
        path.unlink()
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents[number % len(contents)] + number.to_bytes(8, "big"))
    return folder


def ours(trunk: Trunk, folder: Path, storage: Path) -> torch.Tensor:
    """Extract a folder as a sweep does: it stays files, and its features are stored."""
    source = load_source(f"folder:{folder}", folder, SIZE, cache=storage / "cache")
    view = ImageView(source.images, np.arange(len(source.images)), source.digest)
    return extract_features(trunk, view, store=FeatureShards(LocalBackend(storage)))


def bare(trunk: Trunk, folder: Path) -> torch.Tensor:
    """Decode, resize and embed in a plain loop."""
    files = sorted(folder.rglob("*.jpg"))
    mean, std = trunk.mean * 255, trunk.std * 255
    parts = []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            batch = np.stack([_square(path) for path in files[start : start + BATCH]])
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).float()
            parts.append(trunk.network((images - mean) / std))
    return torch.cat(parts)


def _square(path: Path) -> np.ndarray[Any, Any]:
    """Return an image with its shorter side resized, and cut to a square."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    short = min(picture.size)
    wide, tall = (SIZE * side // short for side in picture.size)
    picture = picture.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - SIZE) // 2, (tall - SIZE) // 2
    return np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)))


def timed(run: Callable[..., torch.Tensor], *arguments: Any) -> tuple[float, torch.Tensor]:
    """Return the CPU seconds of all threads and the result of a call."""
    start = time.process_time()
    result = run(*arguments)
    return time.process_time() - start, result


def compare_times(count: int, repeats: int) -> bool:
    """Time a first extraction beside the loop, and one of the grown folder beside the whole."""
    times: dict[str, list[float]] = {"ours": [], "bare loop": [], AS_IT_COMES: []}
    grown: dict[str, list[float]] = {"ours": [], "new images alone": []}
    trunk, equal = build_trunk(NETWORK, SIZE).eval(), True
    with tempfile.TemporaryDirectory() as place:
        folder = photos(Path(place) / "photos", count, (500, 375))
        for number in range(repeats):
            storage = Path(place) / f"storage{number}"
            seconds, features = timed(ours, trunk, folder, storage)
            times["ours"].append(seconds)
            seconds, wanted = timed(bare, trunk, folder)
            times["bare loop"].append(seconds)
            times[AS_IT_COMES].append(float(_own_process("--bare", str(folder))))
            equal &= _same(features, wanted)
            more = photos(Path(place) / f"more{number}", count // 10, (500, 375))
            alone = Path(place) / f"alone{number}"
            seconds, _ = timed(ours, trunk, more, alone)
            grown["new images alone"].append(seconds)
            larger = Path(place) / f"larger{number}"
            shutil.copytree(folder, larger)
            for path in more.rglob("*.jpg"):
                target = larger / path.parent.name / f"new-{path.name}"
                target.write_bytes(path.read_bytes() + b"new")
            seconds, _ = timed(ours, trunk, larger, storage)
            grown["ours"].append(seconds)
    passed = True
    for rival in ("bare loop", AS_IT_COMES):
        passed &= print_row(
            "features/extraction", rival, times, lower_is_better=True, correct=equal
        )
    return passed & print_row(
        "features/grown by a tenth", "new images alone", grown, lower_is_better=True
    )


def _same(features: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Say whether features are equal, image by image, up to the order of sums."""
    return bool(torch.allclose(features, wanted, rtol=1e-3, atol=1e-4))


def streamed_memory(count: int, place: Path) -> float:
    """Return the gigabytes by which memory grows while images are extracted, in this process."""
    folder = place / "photos"
    trunk = build_trunk(SMALL_NETWORK, SIZE).eval()
    pixels = np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8)
    extract_features(trunk, ImageView(pixels, np.arange(1), ""))  # imports, kernels
    before = psutil.Process().memory_info().rss
    features = ours(trunk, folder, place / "storage")
    if features.shape != (count, trunk.num_features):
        raise SystemExit(f"expected {count} rows, received {tuple(features.shape)}")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9


def _own_process(*arguments: str) -> str:
    """Return what this benchmark prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.features", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def compare_memory(count: int) -> bool:
    """Measure the memory in a process of its own, which has nothing else in it."""
    with tempfile.TemporaryDirectory() as place:
        photos(Path(place) / "photos", count, (256, 256))
        measured = _own_process("--measure", place, "--streamed", str(count))
    costs = {"ours": [float(measured)], "the limit": [MOST_GIGABYTES]}
    return print_row("features/memory", "the limit", costs, images=count, unit="GB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--streamed", type=int, default=20_000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.bare:
        trunk = build_trunk(NETWORK, SIZE).eval()
        print(timed(bare, trunk, options.bare)[0])
        return 0
    keep_freed_memory()
    image_files.STREAMED_BYTES = 0  # few images stay files too
    if options.measure:
        print(streamed_memory(options.streamed, Path(options.measure)))
        return 0
    passed = compare_times(options.images, options.repeats)
    return 0 if passed & compare_memory(options.streamed) else 1


if __name__ == "__main__":
    sys.exit(main())
