"""Names processes across hosts and containers, and says of one whether it has certainly ended."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class ProcessName(BaseModel):
    """A process as other hosts and later boots know it.

    Args:
        host: For people.
        machine: Host, boot and namespaces in which ``pid`` means something.
        pid: Its number there.
        started: When it started, in ticks since boot; empty if that cannot be read.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def of_this(cls) -> ProcessName:
        """Return this process's name."""
        pid = os.getpid()
        started = start_time(pid) or ""
        return cls(host=socket.gethostname(), machine=machine(), pid=pid, started=started)

    @property
    def has_ended(self) -> bool:
        """Whether the process has certainly ended; of another machine's nothing is certain."""
        return self.machine == machine() and not is_running(self.pid, self.started)


@cache
def machine() -> str:
    """Return what makes a process number meaningful: host, boot, namespaces of pids and clocks."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
        parts.append(os.readlink("/proc/self/ns/time"))
    return " ".join(parts)


def start_time(pid: int) -> str | None:
    """Return when a process started, in ticks since boot: tells a reused number from the owner.

    Empty for one that has ended and still has a number; ``None`` where that cannot be read:
    ``/proc`` shows another namespace's numbers, or hides other users' processes.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # fields after the command, which stands in parentheses and may hold spaces; state first
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def is_running(pid: int, started: str) -> bool:
    """Say whether a process of this machine runs that started then; ``True`` if in doubt."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = start_time(pid)
    return not started or now is None or now == started
