"""Number of threads of a process, and what its results were computed with.

Several threads add the terms of a sum in another order than one does, so results differ in their
last digits, and by more after a training. Every entry point therefore computes with one thread
unless it is told otherwise.

OpenMP's threads spin while they wait, which takes the cores from the threads that they wait for.
A training step of a small convolution beside other processes on two cores took 9 ms with one
thread, 63 ms with two, and 15 ms with two that sleep while they wait.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch

WAIT_POLICY = "PASSIVE"
NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CPU_FACTS = Path("/proc/cpuinfo")


def choose_threads(threads: int = 1) -> None:
    """Set the number of threads of torch and numpy, and let waiting threads sleep.

    Entry points call this before torch is loaded: OpenMP reads the waiting policy only then. In a
    process that has loaded torch, the number alone changes. Freed memory is kept, see
    `trainables.memory`.
    """
    keep_freed_memory()
    _set_threads(threads)


def _set_threads(threads: int) -> None:
    os.environ.update(dict.fromkeys(NUMBERS, str(threads)))
    os.environ["OMP_WAIT_POLICY"] = WAIT_POLICY
    torch = sys.modules.get("torch")
    if torch is not None and "set_num_threads" in vars(torch):  # a deferred torch stays deferred
        torch.set_num_threads(threads)


def usable_cores(most: int = 8) -> int:
    """Return the number of cores that this process may use, at most 8.

    Example:
        >>> 1 <= usable_cores(2) <= 2
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, most))


def choose_threads_if_free() -> None:
    """Choose the number of `OMP_NUM_THREADS`, else one, unless this process has torch loaded.

    For code in the process of somebody else, such as a model server.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" not in sys.modules:
        _set_threads(int(wanted) if wanted.isdigit() else 1)


def computed_with(device: torch.device | str = "cpu") -> dict[str, str]:
    """Return what results depend on beside code and settings: device, threads, kernels, torch.

    Example:
        >>> sorted(computed_with())
        ['cpu_kernels', 'device', 'processor', 'threads', 'torch', 'wait_policy']
    """
    import torch

    kind = torch.device(device).type
    return {
        "device": kind,
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default").lower(),
        "cpu_kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    } | ({} if kind == "cpu" else {"gpu": torch.cuda.get_device_name(device)})


def processor() -> str:
    """Return the name of this machine's processor, or its architecture where none is told."""
    lines = CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
