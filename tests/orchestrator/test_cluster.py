"""A sweep finds its cluster, and waits for the machines that a launcher is still starting."""

import socket
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster import await_count, check_address, machines_of
from trainables.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_machines_are_the_head_and_the_least_number_of_each_kind(tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.yaml"
    kinds = {"head": {"min_workers": 0}, "cpu": {"min_workers": 2, "max_workers": 5}, "gpu": {}}
    file.write_text(yaml.safe_dump({"cluster_name": "c", "available_node_types": kinds}))
    assert machines_of(file) == 3


def test_a_machine_that_no_launcher_prepared_waits_for_nobody(tmp_path: Path) -> None:
    assert machines_of(tmp_path / "absent.yaml") == 0
    said: list[str] = []
    await_count(lambda: 1, 0, said.append)
    assert said == []


def test_it_waits_until_all_have_joined_and_says_so_once() -> None:
    joined = iter([1, 1, 2, 3, 99])
    said: list[str] = []
    await_count(lambda: next(joined), 3, said.append, poll_seconds=0.01)
    assert next(joined) == 99  # not asked again
    assert said == ["1 of 3 machines have joined; waiting for the others"]


def test_a_machine_that_never_joins_is_done_without() -> None:
    said: list[str] = []
    await_count(lambda: 2, 3, said.append, seconds=0.05, poll_seconds=0.01)
    assert said[-1] == "2 of 3 machines joined; going on with them"


def test_what_is_sent_to_the_machines_is_all_that_a_sweep_imports() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    sent = {Path(source).parts[0] for source in cluster["file_mounts"].values()}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages | {"experiments", "Makefile", "pyproject.toml", "requirements.lock"} <= sent


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_where_nothing_answers_is_one_line(prefix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{prefix}127.0.0.1:{server.getsockname()[1]}"
        check_address(address)
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'"):
        check_address(address)


@pytest.mark.parametrize("address", ["head:none", "127.0.0.1:66000"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at '{address}'"):
        check_address(address)


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_ray_looks_for_a_cluster_itself_where_no_host_is_named(address: str | None) -> None:
    check_address(address)
