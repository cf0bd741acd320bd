"""A sweep finds its cluster, and waits for the machines that a launcher is still starting."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.execution.cluster import await_count, check_address, machines_of, protect_token
from tests.helpers import ROOT
from trainables.errors import ConfigError


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
    assert said[-1] == "2 of 3 machines have joined; continuing without the others"


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


@pytest.mark.parametrize(("before", "after"), [(0o644, 0o600), (0o660, 0o600), (0o400, 0o400)])
def test_nobody_else_can_read_the_token(tmp_path: Path, before: int, after: int) -> None:
    token = tmp_path / "auth_token"
    token.write_text("a" * 64)
    token.chmod(before)
    protect_token(token)
    assert token.stat().st_mode & 0o777 == after
    protect_token(tmp_path / "absent")


STARTED = """
import json, time, urllib.request
import psutil
from orchestrator.execution.cluster import connect_ray
connect_ray(None)
import ray
ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
calls = [c for p in ours for c in p.net_connections("tcp")]
ports = sorted({call.laddr.port for call in calls if call.status == "LISTEN"})
served = []
for port in ports:
    try:
        body = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2).read()
        served.append(port) if b"# HELP" in body else None
    except Exception:
        pass
print(json.dumps({"ports": ports, "served": served}))
ray.shutdown()
"""


def test_a_ray_that_is_started_here_serves_no_metrics_and_keeps_its_token(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_ADDRESS": "local"}
    environment.pop("RAY_AUTH_TOKEN_PATH", None)
    done = subprocess.run(
        [sys.executable, "-c", STARTED],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["ports"]) >= 3, "Ray listens"
    assert found["served"] == []
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
