"""Freed memory is kept by every entry point: large tensors are not written to fresh pages."""

import platform
import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's allocator is set, no other"
)

LARGE = 50  # MB, of a block: above what glibc keeps by itself
PAGES = """
import os, resource
{first}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"1" * ({size} * 2**20)
before = faults()
for _ in range(10):
    b"1" * ({size} * 2**20)
print((faults() - before) * os.sysconf("SC_PAGE_SIZE") / 2**20)
"""


def fresh_megabytes(first: str, **variables: str) -> float:
    """Return how many megabytes of fresh pages ten blocks of 50 MB took."""
    code = PAGES.format(first=first, size=LARGE)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


CHOOSE = "from trainables.threads import choose_threads; choose_threads()"
KEEP = "from trainables.memory import keep_freed_memory; print(keep_freed_memory())"
FIT = """
import orchestrator
from trainables.errors import ConfigError
try:
    orchestrator.fit("/nowhere/photos")
except ConfigError:
    pass
"""


@pytest.mark.parametrize("first", [CHOOSE, KEEP, FIT])
def test_blocks_are_written_to_the_pages_of_those_that_were_freed(first: str) -> None:
    assert fresh_megabytes(first) < LARGE


def test_by_itself_each_block_has_fresh_pages() -> None:
    assert fresh_megabytes("pass") > 9 * LARGE


@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_MMAP_THRESHOLD_": "1048576"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"},
    ],
)
def test_what_the_user_chose_stays(variables: dict[str, str]) -> None:
    assert fresh_megabytes(KEEP, **variables) > 9 * LARGE


def test_the_process_of_somebody_else_stays_as_it_is() -> None:
    first = "from trainables.threads import choose_threads_if_free; choose_threads_if_free()"
    assert fresh_megabytes(first) > 9 * LARGE
