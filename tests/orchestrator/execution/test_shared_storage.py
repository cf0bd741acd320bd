"""A storage that another host does not see is refused before the first trial."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.execution.shared_storage import can_use, check_storage_is_shared
from trainables.errors import ConfigError


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[None]:
    """A Ray cluster of two nodes, which stand for two hosts.

    It notes its address in a folder of its own: sweeps of other tests would join it otherwise.
    """
    import ray
    from ray.cluster_utils import Cluster

    # a short path, because sockets lie below it
    with (
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as own,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", own)
        # a port that was asked for is tried, and where another Ray has it the socket stays open
        head = {"num_cpus": 1, "include_dashboard": False, "dashboard_port": None}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        assert not Path("/tmp/ray/ray_current_cluster").exists()
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
        ray.shutdown()
        cluster.shutdown()


def test_a_folder_that_all_hosts_see_is_taken_and_left_clean(
    two_hosts: None, tmp_path: Path
) -> None:
    check_storage_is_shared(str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []
    check_storage_is_shared("s3://bucket/runs")  # not asked


def test_a_folder_of_this_process_alone_is_refused_in_one_line(
    two_hosts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    private = "/proc/self/cwd/runs"  # in every process another folder
    with pytest.raises(ConfigError, match=r"--storage: host .* can't see .*'/proc/self") as found:
        check_storage_is_shared(private, appears_seconds=0.5)
    assert "\n" not in str(found.value)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_host_waits_for_a_file_that_appears(tmp_path: Path) -> None:
    assert not can_use(str(tmp_path / "mark"), 0.0)
    threading.Timer(0.3, (tmp_path / "mark").touch).start()
    assert can_use(str(tmp_path / "mark"), 30.0)
