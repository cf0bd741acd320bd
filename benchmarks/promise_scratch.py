"""Does the rehearsal of a network from scratch keep its promise?

A world is 20 seeded classes of CIFAR-100 as a folder of PNG files, 500 images down to 25, that
``orchestrator.fit`` takes with ``backbone="none"``: it trains a small network, trains it once more
without the four classes of a fold, and states two intervals of 95 %: of the share of images that is
noticed of the next class, and of the mean over classes. Then the model that it serves meets 10
other classes, of 60 images each.

Rows and goal are those of `benchmarks.promise`; the mean is that of the 10 other classes.

    python -m benchmarks.promise_scratch --data cifar100 [--worlds 10]

A world takes some 10 minutes of one core. What it gave is added to
``benchmarks/rows/promise_scratch_by_world.jsonl``; a world that is there is not run again, and the
rows are made of all of them once there are as many as were asked for.

``--data`` holds ``train`` with a folder per class.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import orchestrator
from benchmarks.promise import Kept, print_rows
from orchestrator.environment import git_commit
from trainables.rehearsal.outcome import Rehearsal

KNOWN, OTHERS, LARGEST, SMALLEST = 20, 10, 500, 25
OF_OTHERS = 60  # images of each other class
WORLDS = Path(__file__).parent / "rows" / "promise_scratch_by_world.jsonl"


def make_folder(data: Path, seed: int, folder: Path) -> dict[str, list[Path]]:
    """Link images of 20 known classes with a long tail, and return those of 10 other classes."""
    rng = np.random.default_rng(seed)
    names = [str(name) for name in rng.permutation(sorted(p.name for p in data.iterdir()))]
    for rank, name in enumerate(names[:KNOWN]):
        files = sorted((data / name).iterdir())
        count = round(LARGEST * (SMALLEST / LARGEST) ** (rank / (KNOWN - 1)))
        (folder / name).mkdir(parents=True)
        for place in rng.permutation(len(files))[:count]:
            (folder / name / files[place].name).symlink_to(files[place].resolve())
    others = names[KNOWN : KNOWN + OTHERS]
    return {name: sorted((data / name).iterdir())[:OF_OTHERS] for name in others}


def judge(data: Path, seed: int) -> Kept:
    """Fit a model to a world, and let the other classes come to it."""
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        others = make_folder(data, seed, photos)
        storage = str(Path(name) / "runs")
        model = orchestrator.fit(photos, backbone="none", storage=storage, quiet=True)
        figure = Rehearsal.from_json(json.dumps(model.record.rehearsal)).noticed()
        rates = [
            float(np.mean([not answer.known for answer in model.predict(files)]))
            for files in others.values()
        ]
    came = float(np.mean(rates))
    return Kept(
        float(np.mean([figure.next_low <= rate <= figure.next_high for rate in rates])),
        figure.low <= came <= figure.high,
        figure.mean,
        came,
        figure.next_high - figure.next_low,
        figure.high - figure.low,
    )


def add_world(data: Path, world: int, file: Path) -> None:
    """Judge a world, and append what it gave to a file."""
    started = time.process_time()
    kept = judge(data, world)
    cpu = round(time.process_time() - started)
    line = {"world": world, "commit": git_commit(12), "cpu": cpu, **kept._asdict()}
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"{json.dumps(line)}\n")


def read_worlds(file: Path) -> dict[int, dict[str, Any]]:
    """Return what was stored, by world."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return {line["world"]: line for line in map(json.loads, text.splitlines())}


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="CIFAR-100: train, a folder per class")
    parser.add_argument("--worlds", type=int, default=10)
    options = parser.parse_args()
    if options.data is None:
        sys.stderr.write("promise_scratch: not measured; give --data\n")
        return 0
    for world in range(options.worlds):
        if world not in read_worlds(WORLDS):
            add_world(options.data / "train", world, WORLDS)
    lines = [read_worlds(WORLDS)[world] for world in range(options.worlds)]
    found = [Kept(**{name: line[name] for name in Kept._fields}) for line in lines]
    seconds = sum(float(line["cpu"]) for line in lines)
    return 0 if print_rows(found, seconds, variant=", from scratch") else 1


if __name__ == "__main__":
    sys.exit(main())
