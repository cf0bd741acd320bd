"""What all tests share: one thread each, groups for parallel runs, reasons for skips."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

HERE = Path(__file__).parent
ONE_WORKER = ("orchestrator", "end_to_end", "faults")  # a machine carries one Ray at a time


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        area = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if area in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group("ray"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no accelerator on this machine"))
        if item.get_closest_marker("cluster") and not _can_make_hosts():
            item.add_marker(pytest.mark.skip(reason="needs root, ip, unshare and sshd"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _can_make_hosts() -> bool:
    return os.geteuid() == 0 and all(shutil.which(name) for name in ("ip", "unshare", "sshd"))
