"""What all tests share: one thread each, groups for parallel runs, reasons for skips."""

import os
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

HERE = Path(__file__).parent
# a machine carries one Ray at a time
ONE_WORKER = ("orchestrator", "end_to_end", "faults", "rehearsal")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        area = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if area in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group("ray"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no accelerator on this machine"))
        if item.get_closest_marker("cluster") and _lack_for_hosts():
            item.add_marker(pytest.mark.skip(reason=_lack_for_hosts()))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@cache
def _lack_for_hosts() -> str:
    from rehearsal.hosts import missing

    return missing()
