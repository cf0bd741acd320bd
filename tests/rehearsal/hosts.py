"""Pretend hosts on one machine: the kernel's namespaces, a bridge between them, an sshd in each.

A *room* is one set of namespaces (network, mounts, processes, names). In it lie a bridge, a laptop
and the hosts, each a set of namespaces of its own. A host's files are this machine's, seen through
an overlay that writes to memory. So nothing of a room can touch this machine, and when the room's
first process is killed the kernel takes everything with it: processes, networks, mounts, files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.helpers import ROOT

# For its duration a room covers this folder, which every Linux has, by one in memory.
PLACE = Path("/mnt")
PROJECT = ROOT
PROGRAMS = {
    "ip": "iproute2", "unshare": "util-linux", "setpriv": "util-linux", "mount": "mount",
    "chroot": "coreutils", "sshd": "openssh-server", "ssh": "openssh-client",
    "ssh-keygen": "openssh-client", "rsync": "rsync", "make": "make", "git": "git",
}  # fmt: skip
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
# A host's first process adopts what sshd and Ray leave, so a shell, which collects the dead.
FIRST_PROCESS = """
hostname {name}
mount -t proc proc {root}/proc
exec chroot {root} bash -c '/usr/sbin/sshd -D -e & wait'
"""
SSHD = """
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
AuthorizedKeysFile /etc/ssh/authorized_keys
"""


class Host(NamedTuple):
    """A machine of the rehearsal: its name, its address, and where its files lie in the room."""

    name: str
    address: str
    user: str

    @property
    def root(self) -> Path:
        """Its files, as the room sees them."""
        return PLACE / self.name / "root"

    @property
    def home(self) -> Path:
        """Home of its user, as the host sees it."""
        return Path("/home") / self.user


def missing() -> str:
    """Say in one line what this machine lacks for pretend hosts; empty: nothing."""
    if sys.platform != "linux":
        return "pretend hosts need Linux"
    if os.geteuid() != 0:
        return "pretend hosts need root (namespaces, mounts)"
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = {p for name, p in PROGRAMS.items() if shutil.which(name, path=search) is None}
    if packages:
        return f"pretend hosts need Debian packages: apt-get install {' '.join(sorted(packages))}"
    tried = _quiet("unshare", *NAMESPACES, "true", check=False)
    if tried.returncode:
        return f"this machine makes no namespaces: {tried.stderr.strip()}"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        return "this machine's kernel has no overlay file system"
    return ""


# --- from outside -----------------------------------------------------------------------------


@contextlib.contextmanager
def room(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as the first process of a room; at the end the room is gone.

    Should this process be killed, the kernel kills the room's first process (``setpriv``).
    """
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "--mount-proc", *command],
        start_new_session=True,  # Ctrl-C is for this process, which then takes the room down
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


# --- from inside ------------------------------------------------------------------------------


def furnish(laptop: Host, hosts: Sequence[Host], environment: str) -> None:
    """Prepare a room: a network, a laptop, the hosts, a folder ``/shared`` that all hosts see.

    Args:
        laptop: The machine that commands are typed on; it has the key to all hosts.
        hosts: The machines of the cluster.
        environment: What each host's sshd adds to a session, as ``NAME=value``.
    """
    _quiet("mount", "-t", "tmpfs", "tmpfs", str(PLACE))
    _quiet("mount", "-t", "tmpfs", "tmpfs", "/run")  # where `ip netns` keeps names
    (PLACE / "shared").mkdir()
    names = "".join(f"{host.address} {host.name}\n" for host in (laptop, *hosts))
    for host in (laptop, *hosts):
        _make_files(host, names)
    _furnish_laptop(laptop)
    _make_bridge(laptop)
    for host in hosts:
        _start(host, _public_key(laptop), environment)
    for host in hosts:
        _wait_for_sshd(host)


def _make_files(host: Host, names: str) -> None:
    """Give a machine its files: this machine's, with a user, a home and names of its own."""
    base, root = PLACE / host.name, host.root
    _cover(Path("/"), root, base / "files")
    for folder in ("tmp", "run", "dev/shm"):
        if folder == "dev/shm":
            _bind(Path("/dev"), root / "dev")
        _quiet("mount", "-t", "tmpfs", "tmpfs", str(root / folder))
    _bind(Path("/sys"), root / "sys")
    _bind(Path(sys.base_prefix), root / sys.base_prefix[1:], read_only=True)
    home = root / host.home.relative_to("/")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    users = Path("/etc/passwd").read_text()
    user = f"{host.user}:x:0:0::{host.home}:/bin/bash\n"
    (root / "etc/passwd").write_text(user + users)  # the first of a number, or name, is found
    for name, text in (("hosts", f"127.0.0.1 localhost\n{names}"), ("resolv.conf", "")):
        (root / "etc" / name).unlink(missing_ok=True)  # it may be a link
        (root / "etc" / name).write_text(text)


def _furnish_laptop(laptop: Host) -> None:
    """Let the laptop see the project as it is, and give it a key."""
    _bind(PROJECT, laptop.root / PROJECT.relative_to("/"), read_only=True)
    _quiet("mount", "-t", "proc", "proc", str(laptop.root / "proc"))
    folder = laptop.root / laptop.home.relative_to("/") / ".ssh"
    folder.mkdir(mode=0o700)
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
    _quiet(*key, "-f", str(folder / "id_ed25519"))
    _quiet(*key, "-f", str(PLACE / "hostkey"))


def _public_key(laptop: Host) -> str:
    return (laptop.root / laptop.home.relative_to("/") / ".ssh/id_ed25519.pub").read_text()


def _make_bridge(laptop: Host) -> None:
    """Make the network; the laptop has the bridge's own address, and nothing leads outside."""
    _quiet("ip", "link", "set", "lo", "up")
    _quiet("ip", "link", "add", "bridge", "type", "bridge")
    _quiet("ip", "addr", "add", f"{laptop.address}/32", "dev", "bridge")
    _quiet("ip", "link", "set", "bridge", "up")
    _quiet("ip", "route", "add", "default", "dev", "bridge")


def _start(host: Host, key: str, environment: str) -> None:
    """Connect a host to the bridge and start its sshd; the project comes by `file_mounts` only."""
    root = host.root
    sent = root / (host.home / "longtail").relative_to("/")
    # this project's environment stands for one that set-up built there before
    _cover(PROJECT / ".venv", sent / ".venv", PLACE / host.name / "environment")
    (sent / ".venv/.synced").touch()
    # its programs name this project's folder: on a host that is what was sent to it
    _bind(sent, root / PROJECT.relative_to("/"))
    _bind(PLACE / "shared", root / "shared")
    (root / "run/sshd").mkdir()
    settings = root / "etc/ssh"
    (settings / "authorized_keys").write_text(key)
    (settings / "sshd_config").write_text(f"{SSHD}HostKey /etc/ssh/hostkey\nSetEnv {environment}\n")
    shutil.copy(PLACE / "hostkey", settings / "hostkey")
    _plug_in(host)
    first = FIRST_PROCESS.format(name=host.name, root=root)
    with (PLACE / f"{host.name}.log").open("wb") as log:
        subprocess.Popen(
            ["ip", "netns", "exec", host.name, "unshare", *NAMESPACES[1:], "bash", "-c", first],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def _plug_in(host: Host) -> None:
    """Give a host a network with one card, the other end of which is in the bridge."""
    name, wire = host.name, f"to-{host.name}"
    _quiet("ip", "netns", "add", name)
    _quiet("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", name)
    _quiet("ip", "link", "set", wire, "master", "bridge", "up")
    _quiet("ip", "-n", name, "addr", "add", f"{host.address}/32", "dev", "eth0")
    _quiet("ip", "-n", name, "link", "set", "eth0", "up")
    _quiet("ip", "-n", name, "link", "set", "lo", "up")
    # whatever addresses are named; Ray finds its own by asking which card leads outside
    _quiet("ip", "-n", name, "route", "add", "default", "dev", "eth0")


def _wait_for_sshd(host: Host, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host.address, 22), 1):
            return
        time.sleep(0.1)
    log = (PLACE / f"{host.name}.log").read_text()
    raise RuntimeError(f"{host.name} did not come up: {log}")


def type_on(laptop: Host, command: str, *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command as if typed on the laptop, in the project's folder."""
    kept = {name: os.environ[name] for name in ("LANG", "TERM", "PATH") if name in os.environ}
    return subprocess.run(
        ["chroot", str(laptop.root), "bash", "-c", f"cd {PROJECT} && {command}"],
        env={**kept, "HOME": str(laptop.home), "USER": laptop.user, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=timeout, check=False,
    )  # fmt: skip


def _cover(source: Path, target: Path, memory: Path) -> None:
    """Show a folder at a second place; what is written there goes to memory."""
    for folder in (memory / "written", memory / "work", target):
        folder.mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={source},upperdir={memory}/written,workdir={memory}/work"
    _quiet("mount", "-t", "overlay", "overlay", "-o", layers, str(target))


def _bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Show a folder at a second place."""
    target.mkdir(parents=True, exist_ok=True)
    _quiet("mount", "--rbind", str(source), str(target))
    if read_only:
        _quiet("mount", "-o", "remount,bind,ro", str(target))


def _quiet(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it says for the error, if there is one."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done
