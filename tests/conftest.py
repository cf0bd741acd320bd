"""What all tests share: one thread each, Ctrl-C, reasons for skips."""

import os
import signal
from functools import cache

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; children inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no accelerator on this machine"))
        if item.get_closest_marker("cluster") and _lack_for_hosts():
            item.add_marker(pytest.mark.skip(reason=_lack_for_hosts()))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@cache
def _lack_for_hosts() -> str:
    from tests.rehearsal.hosts import missing

    return missing()
