"""The benchmarks of a GPU run through without one, on little, and say when there is none."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import ONCE
from benchmarks.gpu_trials import time_shared

NAMES = ("gpu", "gpu_features", "gpu_trials")


def rows(name: str, *arguments: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_there_is_one_line(name: str) -> None:
    assert rows(name) == [{"benchmark": name, "skipped": "no GPU: torch sees no CUDA device"}]


@pytest.mark.slow
def test_the_same_code_runs_on_a_cpu_and_its_results_are_right() -> None:
    small = ("--device", "cpu", "--small", "--epochs", "4", "--repeats", "1")
    found = [row for name in NAMES for row in rows(name, *small)]
    measured = [row for row in found if "ratio" in row]
    assert {(row["benchmark"], row["baseline"]) for row in measured} == {
        ("gpu/fastnet", "DataLoader loop"),
        ("gpu/fastnet", "limit"),
        ("gpu/augmentation", "training epoch"),
        ("gpu/2 trials", "one at a time"),
        ("gpu/12 heads", "lean loop"),
        ("gpu/12 heads", "limit"),
        ("gpu/knn", "limit"),
        ("gpu/kmeans", "limit"),
    }
    assert all(row["correct"] for row in measured)
    assert measured[0]["steps"] == 12  # 4 epochs of 3 batches
    assert any("published" in row for row in found)


def test_only_the_time_that_all_trials_share_counts() -> None:
    def every(seconds: float, start: float, epochs: int = 4) -> list[float]:
        once = [start] * ONCE  # the first epochs end at the start: they never count
        return once + [start + seconds * (epoch + 1) for epoch in range(epochs)]

    assert time_shared([every(1.0, 10.0)]) == (4.0, 4.0)
    assert time_shared([every(1.0, 10.0), every(2.0, 10.0)]) == (4.0, 6.0)
    assert time_shared([every(1.0, 10.0), every(1.0, 12.5)]) == (1.5, 3.0)  # parts of epochs
    assert time_shared([every(1.0, 10.0), every(1.0, 14.0)]) == (0.0, 0.0)  # one after the other
    assert time_shared([every(1.0, 10.0), every(1.0, 20.0)]) == (0.0, 0.0)
