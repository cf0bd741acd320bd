"""`orchestrator fit` on a stranger's folder, beside a scikit-learn probe and a fine-tune by timm.

20 seeded classes of CIFAR-100 as a folder of PNG files without parts of its own, 500 images down to
9, enlarged to 128 pixels by their weights, as strangers have them: text files, a broken image,
copies, bursts (an image shifted by a pixel), a class of one image and a folder ``other``. ``fit``
runs as a command, by a relative path. What it serves is judged by ``orchestrator predict`` on the
2,000 test images of the 20 classes, which lie outside of the folder: balanced accuracy, and the
false alarm of bands with a Clopper-Pearson interval.

Peers get the same folder: LogisticRegressionCV on features by timm alone, and timm's ``train.py``
from the same weights for as many epochs as fit into the seconds that ``fit`` took.

    python -m benchmarks.fit --data cifar100 --script pytorch-image-models/train.py [--seeds 0 1]

Goals: ``fit`` takes at most 10 minutes of two cores; its balanced accuracy is at least 3 points
above that of LogisticRegression and of the fine-tune; the balanced form has no goal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import print_row
from benchmarks.photos import run_peers
from benchmarks.timm_alone import (
    SIZE,
    accuracy_after,
    accuracy_by_class,
    train_by_timm,
    weights_of_timm,
)

CLASSES, LARGEST, SMALLEST = 20, 500, 9
LIMIT = 600.0  # seconds of a fit
BANDS = {"many": (101, 10**9), "medium": (20, 100), "few": (0, 19)}
EPOCHS_OF_TIMM = 100  # at most


class Stranger(NamedTuple):
    """A folder as a stranger has it, the images that are no part of it, and images per class."""

    photos: Path
    fresh: Path
    counts: dict[str, int]


def make_folder(data: Path, seed: int, folder: Path) -> Stranger:
    """Link the images of 20 classes with a long tail, and add what strangers' folders hold."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(sorted(path.name for path in (data / "train").iterdir()))
    photos, fresh, counts = folder / "photos", folder / "fresh" / "test", {}
    for rank, name in enumerate(names[:CLASSES]):
        count = round(LARGEST * (SMALLEST / LARGEST) ** (rank / (CLASSES - 1)))
        files = sorted((data / "train" / name).iterdir())
        _link([files[n] for n in rng.permutation(len(files))[:count]], photos / name)
        _link(sorted((data / "test" / name).iterdir()), fresh / name)
        counts[str(name)] = count
    others = [next((data / "train" / name).iterdir()) for name in names[CLASSES : CLASSES + 31]]
    _link(others[1:], photos / "other")
    _link(others[:1], photos / "only one")
    (photos / "notes.txt").write_text("taken in May", encoding="utf-8")
    largest = photos / str(names[0])
    (largest / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for number, file in enumerate(sorted(largest.glob("*.png"))[:20]):
        if file.name == "broken.png":
            continue
        image = Image.open(file)
        image.save(largest / f"copy_{number}.png")
        shifted = np.roll(np.asarray(image.resize((SIZE, SIZE))), 2, axis=1)
        Image.fromarray(shifted).save(largest / f"burst_{number}.png")
    return Stranger(photos, fresh, counts)


def _link(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in files:
        (folder / f"{file.parent.name} {file.name}").symlink_to(file.resolve())


def run(folder: Path, *arguments: str) -> tuple[str, float]:
    """Run ``orchestrator`` in a folder; return its output and the seconds it took.

    Raises:
        SystemExit: It failed.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "orchestrator", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")
    return done.stdout, time.monotonic() - start


def fit_and_predict(stranger: Stranger, folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Return the answers of the champion to the fresh images, and the seconds of the fit."""
    weights_of_timm(folder / "weights.pth")
    _, seconds = run(folder, "fit", "photos", "--backbone", "weights", "--json")
    files = sorted(str(path.relative_to(folder)) for path in stranger.fresh.glob("*/*"))
    told, _ = run(folder, "predict", "--json", *files)
    return [json.loads(line) for line in told.splitlines()], seconds


def fine_tune(script: Path, stranger: Stranger, folder: Path, seconds: float) -> dict[str, float]:
    """Return the accuracy of each class by timm's script, which gets the seconds of a fit."""
    place = folder / "timm"
    for name in stranger.counts:
        _link(
            [p for p in sorted((stranger.photos / name).glob("*.png")) if _opens(p)],
            place / "train" / name,
        )
    spent = train_by_timm(script, place, folder / "weights.pth", epochs=1)
    epochs = int(min(EPOCHS_OF_TIMM, max(1, seconds / spent)))
    train_by_timm(script, place, folder / "weights.pth", epochs=epochs)
    return accuracy_after(place, stranger.fresh)


def _opens(file: Path) -> bool:
    try:
        Image.open(file).load()
    except OSError:
        return False
    return True


def false_alarms(answers: Sequence[dict[str, Any]], counts: dict[str, int]) -> dict[str, Any]:
    """Return the share of known images that are called unknown in each band, with its interval."""
    from scipy.stats import binomtest

    found = {}
    for band, (low, high) in BANDS.items():
        own = [a for a in answers if low <= counts[Path(a["image"]).parent.name] <= high]
        if own:
            alarms = sum(not answer["known"] for answer in own)
            ends = binomtest(alarms, len(own)).proportion_ci(0.95)
            found[band] = [round(alarms / len(own), 4), round(ends.low, 4), round(ends.high, 4)]
    return found


def balanced(accuracy: dict[str, float]) -> float:
    """Return the mean of the classes' accuracies in percent."""
    return 100 * float(np.mean(list(accuracy.values())))


def measure(data: Path, script: Path | None, seed: int) -> bool:
    """Run one draw, print its rows, and say whether all goals were reached."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stranger = make_folder(data, seed, folder)
        answers, seconds = fit_and_predict(stranger, folder)
        truth = np.array([Path(answer["image"]).parent.name for answer in answers])
        named = np.array([answer["class_name"] for answer in answers])
        ours = balanced(accuracy_by_class(named, truth))
        told = {
            "seed": seed,
            "balanced": ours,
            "false_alarm": false_alarms(answers, stranger.counts),
        }
        passed = print_row(
            "fit/a folder", "10 minutes", {"ours": [seconds], "10 minutes": [LIMIT]}, **told
        )
        plain = folder / "plain"
        plain.mkdir()
        (plain / "test").symlink_to(stranger.fresh)
        for name_of_class in stranger.counts:
            own = sorted((stranger.photos / name_of_class).glob("*.png"))
            _link([file for file in own if _opens(file)], plain / "train" / name_of_class)
        peers = {peer: balanced(found.accuracy) for peer, found in run_peers(plain).items()}
        if script is not None:
            peers["timm's train.py, same time"] = balanced(
                fine_tune(script, stranger, folder, seconds)
            )
        for peer, theirs in peers.items():
            passed &= print_row(
                "fit/balanced accuracy, points",
                peer,
                {"ours": [1.0], peer: [ours - theirs]},
                seed=seed,
                balanced={"ours": ours, peer: theirs},
            )
    return passed


def main() -> int:
    """Measure all seeds, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="CIFAR-100: train and test, a folder per class")
    parser.add_argument("--script", type=Path, help="timm's train.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    if options.data is None:
        sys.stderr.write("fit: not measured; give --data\n")
        return 0
    results = [measure(options.data, options.script, seed) for seed in options.seeds]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
