"""Several small trainings side by side on one GPU, beside one at a time.

Goal, set for an H200 and never measured on one: 8 trials of ResNet-32 on 12,406 images at least 3
times the images per second of one.

    python -m benchmarks.gpu_trials [--epochs 12] [--repeats 3] [--data FOLDER] [--device cuda]
        [--small]

Each trial is a process, as in a sweep. Counted are the epochs, whole and parts, of the time in
which all of them are past their first ones. Without ``--data`` images are random: what they show
costs nothing. Without a GPU there is one line; ``--device cpu --small`` runs the code on little.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from itertools import pairwise
from multiprocessing.connection import Connection

import numpy as np
import torch

from benchmarks import print_row
from benchmarks.gpu import ONCE, Options, Size, make_view, read_options, settings, train


def one_trial(pipe: Connection, images: np.ndarray, epochs: int, size: Size, device: str) -> None:
    """Train whenever asked to, and answer with the seconds at which epochs ended."""
    torch.set_num_threads(1)
    view, name = make_view(images), next(iter(size.trunks))
    while pipe.recv():
        start = time.time()
        trained = train(name, view, settings(size, epochs), torch.device(device))
        pipe.send([start + end for end in trained.ends])


def seconds_per_epoch(
    trials: int, images: np.ndarray, epochs: int, size: Size, device: torch.device
) -> float:
    """Return the seconds per epoch, of any of them, while so many trials train side by side."""
    spawn, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(trials):
        mine, theirs = spawn.Pipe()
        arguments = (theirs, images, epochs, size, str(device))
        spawn.Process(target=one_trial, args=arguments, daemon=True).start()
        pipes.append(mine)
    for pipe in pipes:
        pipe.send(True)
    ends = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(False)
    first, last = max(own[ONCE - 1] for own in ends), min(own[-1] for own in ends)
    if last <= first:
        raise SystemExit("gpu_trials: the trials were not all at work at once; more --epochs")
    done = sum(
        max(0.0, min(end, last) - max(before, first)) / (end - before)
        for own in ends
        for before, end in pairwise(own)
    )
    return (last - first) / done


def side_by_side(options: Options, images: np.ndarray) -> bool:
    """Print how long an epoch takes beside others, and say whether the goal is reached."""
    times: dict[str, list[float]] = {"ours": [], "one at a time": []}
    size, device = options.size, options.device
    for _ in range(options.repeats):
        for side, trials in (("ours", size.trials), ("one at a time", 1)):
            times[side].append(seconds_per_epoch(trials, images, options.epochs, size, device))
    return print_row(f"gpu/{size.trials} trials", "one at a time", times, goal=3.0)


def main() -> int:
    """Measure, print the row, and return the exit status."""
    options = read_options("gpu_trials", __doc__)
    if options is None:
        return 0
    passed = side_by_side(options, options.images())
    return 0 if passed or options.small else 1


if __name__ == "__main__":
    sys.exit(main())
