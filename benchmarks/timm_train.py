"""CPU time per image of the classify stage, compared with timm's ``train.py``.

Goals: timm's script needs at least 1.05 times our CPU time per image at equal settings (bfloat16
autocast, channels-last), and at least 1.4 times with the script's defaults (float32, contiguous).
The cost of an epoch is half the difference of a run of three epochs and a run of one, so start-up
does not count. Both sides use one thread; timm's loader process is included.

    python -m benchmarks.timm_train --script pytorch-image-models/train.py --data cifar10

``--script`` is in timm's repository but not in its package. ``--data`` is a folder of images with
one sub-folder per class, or with such a folder ``train``. Without both options the benchmark
measures nothing. Both sides train our ResNet-32, which is registered with timm, on the same images,
with random crops and flips and batches of 128.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks import print_row
from trainables.artifacts import LabelledView
from trainables.context import Context
from trainables.experiment import Classify, Training
from trainables.models.backbone import build_trunk, to_artifact
from trainables.stages import classify

NETWORK, SIZE, BATCH = "resnet32", 32, 128
SHORT, LONG = 1, 3  # epochs
BASELINES = {
    "timm train.py, equal settings": ("--channels-last", "--amp", "--amp-dtype", "bfloat16"),
    "timm train.py, its defaults": (),
}
COMMON = (
    "--train-split train --val-split val --model longtail_peer --num-classes 10 --img-size 32"
    f" --batch-size {BATCH} --workers 1 --device cpu --opt sgd --lr 0.05 --warmup-epochs 0"
    " --cooldown-epochs 0 --color-jitter 0 --scale 0.8 1.0 --ratio 1.0 1.0"
).split()
RUNNER = """
import runpy, sys
import torch
from timm.models import register_model
from benchmarks.timm_train import make_network

torch.set_num_threads(1)

@register_model
def longtail_peer(pretrained=False, num_classes=10, **settings):
    return make_network(num_classes)

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def make_network(num_classes: int) -> nn.Module:
    """Return our network with a linear head; timm's loader normalizes the images."""
    trunk = build_trunk(NETWORK, SIZE, generator=Context().generator("trunk"))
    return nn.Sequential(trunk.network, nn.Linear(trunk.num_features, num_classes))


def pick_images(folder: Path, samples: int) -> list[tuple[Path, int]]:
    """Return the first images of every class, the same number per class.

    Raises:
        SystemExit: The folder has fewer images than ``samples`` asks for.
    """
    folder = folder / "train" if (folder / "train").is_dir() else folder
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    each = samples // max(len(classes), 1)
    found = [
        (file, label)
        for label, place in enumerate(classes)
        for file in sorted(place.iterdir())[:each]
    ]
    if not found or len(found) < each * len(classes):
        sys.exit(f"{folder}: needs {each} images in each class folder, has {len(found)} in all")
    return found


def lay_out(images: list[tuple[Path, int]], folder: Path) -> None:
    """Link images into the folders that timm reads; one image per class is for validation."""
    for number, (file, label) in enumerate(images):
        for split in (
            ("train", "val") if number == 0 or images[number - 1][1] < label else ["train"]
        ):
            place = folder / split / f"{label:03d}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:06d}{file.suffix}").symlink_to(file.resolve())


def load(images: list[tuple[Path, int]]) -> LabelledView:
    """Return decoded images with their labels."""
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in images])
    labels = np.array([label for _, label in images])
    return LabelledView(pixels, np.arange(len(labels)), labels, int(labels.max()) + 1, "")


def ours(view: LabelledView, epochs: int) -> float:
    """Return the CPU seconds of one training by the classify stage."""
    backbone = to_artifact(
        build_trunk(NETWORK, SIZE, generator=Context().generator("trunk")), NETWORK, SIZE
    )
    settings = Classify(
        training=Training(
            epochs=epochs,
            batch_size=BATCH,
            lr=0.05,
            precision="bfloat16",
            layout="channels_last",
        )
    )
    nothing = view._replace(indices=view.indices[:0], labels=view.labels[:0])
    start = time.process_time()
    classify.run(
        settings, backbone=backbone, known_train=view, validation_known=nothing, context=Context()
    )
    return time.process_time() - start


def theirs(script: Path, data: Path, epochs: int, settings: tuple[str, ...]) -> float:
    """Return the CPU seconds of one run of timm's script and its loader process."""
    command = [sys.executable, "-c", RUNNER, str(script), "--data-dir", str(data), *COMMON]
    command += ["--epochs", str(epochs), "--output", str(data / "output"), *settings]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"timm's script failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--script", type=Path, help="timm's train.py")
    parser.add_argument("--data", type=Path, help="folder of images, a class per sub-folder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2560)
    options = parser.parse_args()
    if not options.script or not options.data:
        sys.stderr.write("timm_train: not measured; give --script and --data\n")
        return 0
    torch.set_num_threads(1)
    images = pick_images(options.data, options.samples)
    view = load(images)
    passed = True
    with tempfile.TemporaryDirectory() as name:
        lay_out(images, Path(name))
        times: dict[str, list[float]] = {side: [] for side in ("ours", *BASELINES)}
        for _ in range(options.repeats):
            times["ours"].append(ours(view, LONG) - ours(view, SHORT))
            for baseline, settings in BASELINES.items():
                long = theirs(options.script, Path(name), LONG, settings)
                times[baseline].append(long - theirs(options.script, Path(name), SHORT, settings))
    for baseline in BASELINES:
        passed &= print_row(f"timm_train/{NETWORK}", baseline, times, images=len(images))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
