"""Memory that was freed stays with the process, for the next tensors."""

from __future__ import annotations

import os
import platform

KEPT = 2**30  # bytes: larger blocks still come from the kernel, and more than this goes back to it
OPTIONS = {"trim_threshold": -1, "mmap_threshold": -3}  # of mallopt, in glibc's malloc.h
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GB of what is freed, and return whether it does.

    By itself glibc asks the kernel for each block above 32 MB and returns it when it is freed, so
    that every layer of a network is written to fresh pages. On a CPU that can be most of the time:
    embedding 64 images of 224 pixels by efficientnet_lite0 took 8.8 images/s, and 23.0 with the
    memory kept; a training step of it on 64 images of 128 pixels 5.4 s, and 3.1 s (one thread of an
    AMD EPYC, a virtual machine). The process's largest size grew from 2.0 to 2.4 GB.

    What the user set, by `MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_` or `GLIBC_TUNABLES`,
    stays as it is; with another allocator, or without glibc, nothing happens.
    """
    chosen = any(name in os.environ for name in VARIABLES)
    chosen = chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    import ctypes  # here, because most commands end before they compute

    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, KEPT) == 1 for option in OPTIONS.values())
