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
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection

import numpy as np
import torch

from benchmarks import print_row
from benchmarks.gpu import ONCE, Options, Size, make_view, read_options, settings, train


def one_trial(pipe: Connection, images: np.ndarray, size: Size, device: str) -> None:
    """Train as many epochs as asked for, until none are, and answer with when they ended."""
    torch.set_num_threads(1)
    view, name = make_view(images), next(iter(size.trunks))
    pipe.send("ready")
    while epochs := pipe.recv():
        start = time.time()
        trained = train(name, view, settings(size, epochs), torch.device(device))
        pipe.send([start + end for end in trained.ends])


def time_shared(ends: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the seconds in which all trials were past their first epochs, and the epochs of then.

    ``ends`` are the times at which each trial's epochs ended. Epochs count by the part of them that
    lies in these seconds. Both are 0 if a trial ended before another one was past its first epochs.
    """
    first, last = max(own[ONCE - 1] for own in ends), min(own[-1] for own in ends)
    done = sum(
        max(0.0, min(end, last) - max(before, first)) / (end - before)
        for own in ends
        for before, end in pairwise(own[ONCE - 1 :])
    )
    return max(0.0, last - first), done


def seconds_per_epoch(
    trials: int, images: np.ndarray, epochs: int, size: Size, device: torch.device
) -> float:
    """Return the seconds per epoch, of any of them, while so many trials train side by side.

    On a busy machine one trial can end before another one has begun: then all train again, twice as
    long, until they have worked at once.
    """
    spawn, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(trials):
        mine, theirs = spawn.Pipe()
        arguments = (theirs, images, size, str(device))
        spawn.Process(target=one_trial, args=arguments, daemon=True).start()
        pipes.append(mine)
    for pipe in pipes:  # processes start in seconds that differ: all wait for the last one
        pipe.recv()
    seconds = done = 0.0
    while seconds == 0.0:
        for pipe in pipes:
            pipe.send(epochs)
        seconds, done = time_shared([pipe.recv() for pipe in pipes])
        epochs *= 2
    for pipe in pipes:
        pipe.send(0)
    return seconds / done


def side_by_side(options: Options, images: np.ndarray) -> bool:
    """Print how long an epoch takes beside others, and say whether the goal is reached."""
    times: dict[str, list[float]] = {"ours": [], "one at a time": []}
    size, device = options.size, options.device
    for _ in range(options.repeats):
        for side, trials in (("ours", size.trials), ("one at a time", 1)):
            times[side].append(seconds_per_epoch(trials, images, options.epochs, size, device))
    return print_row(f"gpu/{size.trials} trials", "one at a time", times)


def main() -> int:
    """Measure, print the row, and return the exit status."""
    options = read_options("gpu_trials", __doc__)
    if options is None:
        return 0
    passed = side_by_side(options, options.images())
    return 0 if passed or options.small else 1


if __name__ == "__main__":
    sys.exit(main())
