"""The benchmark of a GPU runs through without one, on little, and says when there is none."""

import json
import subprocess
import sys

import pytest
import torch


def rows(*arguments: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_line() -> None:
    assert rows() == [{"benchmark": "gpu", "skipped": "no GPU: torch sees no CUDA device"}]


@pytest.mark.slow
def test_the_same_code_runs_on_a_cpu_and_its_results_are_right() -> None:
    found = rows("--device", "cpu", "--small", "--epochs", "4", "--repeats", "1")
    measured = [row for row in found if "ratio" in row]
    assert {(row["benchmark"], row["rival"]) for row in measured} == {
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
    assert found[-1]["published"]
