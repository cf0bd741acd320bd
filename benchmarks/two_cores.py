"""Two trainings of one thread each on two cores, compared with one training of one or two threads.

Goal: two processes of one thread train at least 1.9 times as many images per second as one process.
The second row compares with one process of two threads, which gains less; therefore a trial uses
one thread as long as there are as many trials as cores.

    python -m benchmarks.two_cores [--repeats 5] [--seconds 4]

Times are wall time, so the result is valid only on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection

from benchmarks import print_row

BATCH = 128


def train(pipe: Connection, threads: int) -> None:
    """Train for each number of seconds received and send back the images per second."""
    import torch

    from trainables.models.backbone import build_trunk

    torch.set_num_threads(threads)
    trunk = build_trunk("fastnet", 32, generator=torch.Generator().manual_seed(0))
    trunk.to(memory_format=torch.channels_last).train()
    images = torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8)
    while (seconds := pipe.recv()) is not None:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            trunk(images).square().mean().backward()
            count += BATCH
        pipe.send(count / (time.perf_counter() - start))


class Workers:
    """Started processes that train on request."""

    def __init__(self, number: int, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.pipes = []
        for _ in range(number):
            mine, theirs = spawn.Pipe()
            spawn.Process(target=train, args=(theirs, threads), daemon=True).start()
            self.pipes.append(mine)
        self.rate(0.5)  # warm-up: imports and first calls

    def rate(self, seconds: float) -> float:
        """Return the images per second of all processes together."""
        for pipe in self.pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in self.pipes)


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    sides = {
        "ours": Workers(2, 1),
        "one process": Workers(1, 1),
        "one process, two threads": Workers(1, 2),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, workers in sides.items():
            times[name].append(1 / workers.rate(options.seconds))  # seconds per image
    passed = print_row("two_cores/throughput", "one process", times)
    passed &= print_row("two_cores/throughput", "one process, two threads", times)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
