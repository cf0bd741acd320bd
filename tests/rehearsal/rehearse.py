"""Try `cluster.yaml` for real on pretend hosts: up, a small sweep over several hosts, down.

``make rehearse``, or ``python -m tests.rehearsal.rehearse``. Every command is typed on a pretend
laptop as docs/machines_and_gpus.md writes it; the hosts have the addresses and the user that
`cluster.yaml` names.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.rehearsal.hosts import PLACE, PROJECT, Host, furnish, missing, room, type_on

CLUSTER = PROJECT / "cluster.yaml"
LAPTOP = Host("laptop", "192.0.2.1", "me")
RAY = ".venv/bin/ray"
NAME = "rehearsal"
SWEEP = (
    f"{RAY} submit cluster.yaml orchestrator/sweep.py -- --name {NAME} --storage /shared/runs"
    " --train-workers 2 --trials 2 --finalists 1 --num-seeds 1"
    " --set classify.training.epochs=2 --set update.training.epochs=2"
)
# What each host's sshd says of the host. One CPU: two workers, each of which asks for most of one,
# cannot share it. 15 s in place of 60: how long Ray waits for a head that is gone.
HOST = r'"RAY_OVERRIDE_RESOURCES={\"CPU\":1}" RAY_gcs_rpc_server_reconnect_timeout_s=15'
PATIENCE = 600.0  # seconds for one command, on a loaded machine
SHUTDOWN = 180.0  # a worker's helpers leave up to a minute after it
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class RehearsalError(RuntimeError):
    """A step did not do what the documents say."""


# --- the play, inside the room ----------------------------------------------------------------


def play() -> None:
    """Bring the hosts up, run the commands, check what they did.

    Raises:
        RehearsalError: A command failed, or a check.
    """
    hosts = read_hosts()
    step("hosts, network, sshd", lambda: furnish(LAPTOP, hosts, HOST))
    step("ray get-auth-token", lambda: typed(f"{RAY} get-auth-token --generate"))
    step("ray up", lambda: typed(f"{RAY} up -y cluster.yaml"))
    step("dashboard is closed to others", lambda: refuses(hosts[0].address, 8265))
    step("no token, no entry", lambda: refuses_strangers(hosts[0].address))
    step("a storage of one host is refused", refuses_own_storage)
    step("ray submit", lambda: typed(SWEEP))
    step("sweep is recorded", check_record)
    step("a group spanned hosts", lambda: check_group(hosts))
    step("ray down", lambda: typed(f"{RAY} down -y cluster.yaml"))
    step("no Ray is left on any host", check_nothing_runs)


def read_hosts() -> list[Host]:
    """Return the machines that `cluster.yaml` names, the head first."""
    cluster = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    provider, user = cluster["provider"], cluster["auth"]["ssh_user"]
    if provider["type"] != "local":
        raise RehearsalError("cluster.yaml: only `provider: {type: local}` can be rehearsed")
    head = Host("head", provider["head_ip"], user)
    addresses = enumerate(provider["worker_ips"], start=1)
    return [head, *(Host(f"worker-{number}", address, user) for number, address in addresses)]


def step(name: str, act: Callable[[], object]) -> None:
    """Do one thing and say how long it took."""
    start = time.monotonic()
    print(f"  {name:32}", end="", flush=True)
    act()
    print(f"{time.monotonic() - start:6.1f} s", flush=True)


def typed(command: str) -> str:
    """Type a command on the laptop; return what it printed."""
    done = type_on(LAPTOP, command, timeout=PATIENCE)
    output = CONTROL.sub("\n", done.stdout)
    if done.returncode:
        last = "\n".join(line for line in output.splitlines()[-80:] if line.strip())
        raise RehearsalError(f"`{command}` ended with status {done.returncode}:\n{last}")
    return output


def refuses(address: str, port: int) -> None:
    """Check that a port is closed to other machines."""
    try:
        socket.create_connection((address, port), 5).close()
    except OSError:
        return
    raise RehearsalError(f"{address}:{port} is open to other machines")


def refuses_strangers(address: str) -> None:
    """Check that the cluster answers who has the token, and nobody else."""
    command = f"{RAY} health-check --address {address}:6379"
    typed(f"RAY_AUTH_MODE=token {command}")
    stranger = f"HOME=/tmp RAY_AUTH_MODE=disabled {command}"
    if type_on(LAPTOP, stranger, timeout=PATIENCE).returncode == 0:
        raise RehearsalError("the cluster answered a machine without the token")


def refuses_own_storage() -> None:
    """Check that a sweep is refused before its first trial if a host does not see its storage."""
    command = SWEEP.replace("/shared/runs", "runs").replace(NAME, "alone")
    done = type_on(LAPTOP, command, timeout=PATIENCE)
    if done.returncode == 0 or "--storage: host worker-1" not in done.stdout:
        raise RehearsalError(f"`{command}` ended with status {done.returncode}:\n{done.stdout}")


def check_record() -> None:
    """Check the sweep's record on the shared folder: all trials, stages, report, a champion."""
    folder = PLACE / "shared/runs/sweeps" / NAME
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    states = [trial["state"] for trial in record["trials"]]
    if states != ["COMPLETE", "COMPLETE"]:
        raise RehearsalError(f"trials ended as {states}")
    if not record["promotion"]["promoted"] or not (folder / "report.html").is_file():
        raise RehearsalError("no champion or no report")


def check_group(hosts: Sequence[Host]) -> None:
    """Check by Ray's own list that two workers of one group ran on two hosts."""
    address_of = {row["node_id"]: row["node_ip"] for row in listed("nodes")}
    if set(address_of.values()) != {host.address for host in hosts}:
        raise RehearsalError(f"Ray knows the hosts {sorted(address_of.values())}")
    groups: dict[str, list[str]] = {}
    for actor in listed("actors"):
        if actor["class_name"].startswith("RayTrainWorker"):
            where = address_of[actor["node_id"]]
            groups.setdefault(actor["placement_group_id"], []).append(where)
    if not groups:
        raise RehearsalError("no group of workers trained anything")
    for where in groups.values():
        if len(where) != 2 or len(set(where)) != 2:
            raise RehearsalError(f"workers of one group ran on {where}")
        print("+".join(sorted(where)), end=" ")


def listed(what: str) -> list[dict[str, Any]]:
    """Return what ``ray list`` says on the head; ssh adds lines of its own."""
    question = f"ray list {what} --detail --limit 1000 --format json"
    output = typed(f"{RAY} exec cluster.yaml '{question}'")
    rows: list[dict[str, Any]] = next(
        json.loads(line) for line in output.splitlines() if line.startswith("[{")
    )
    return rows


def check_nothing_runs() -> None:
    """Check that ``ray down`` ended Ray on the head, and so on the workers."""
    end = time.monotonic() + SHUTDOWN
    while left := [p.info["name"] for p in psutil.process_iter(["name"]) if is_ray(p)]:
        if time.monotonic() > end:
            raise RehearsalError(f"still running after `ray down`: {left}")
        time.sleep(0.5)


def is_ray(process: psutil.Process) -> bool:
    name = process.info["name"] or ""
    return name in ("raylet", "gcs_server") or name.startswith("ray::")


# --- from outside -----------------------------------------------------------------------------


def rehearse() -> None:
    """Run the play in a room of its own, and see that nothing of it is left.

    Raises:
        RehearsalError: The play failed, or left something behind.
    """
    before = traces()
    family: list[psutil.Process] = []
    with room([sys.executable, "-m", "tests.rehearsal.rehearse", "--inside"]) as process:
        while True:
            family = psutil.Process(process.pid).children(recursive=True) or family
            try:
                status = process.wait(2.0)
            except subprocess.TimeoutExpired:
                continue
            break
    _, alive = psutil.wait_procs(family, timeout=10)
    if alive:
        raise RehearsalError(f"processes were left: {alive}")
    if left := traces() - before:
        raise RehearsalError(f"left behind: {sorted(left)}")
    if status:
        raise RehearsalError("the rehearsal failed")
    print("  nothing is left behind")


def traces() -> set[str]:
    """Return what a room could leave on this machine: mounts, network cards, names, files."""
    mounts = {f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines()}
    cards = {f"network card {name}" for name in os.listdir("/sys/class/net")}
    seen = (Path("/run/netns"), PLACE, Path("/shared"), Path("/home") / LAPTOP.user)
    files = {str(path) for folder in seen for path in (folder, *folder.glob("*")) if path.exists()}
    return mounts | cards | files


def main() -> None:
    """Play inside a room, or make one."""
    inside = "--inside" in sys.argv
    if not inside and (lack := missing()):
        sys.exit(f"error: {lack}")
    try:
        play() if inside else rehearse()
    except RuntimeError as error:
        sys.exit(f"\nerror: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; nothing is left behind")


if __name__ == "__main__":
    main()
