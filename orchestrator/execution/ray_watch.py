"""Notices that Ray has ended under a driver that started it, before Ray ends the driver."""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
from types import TracebackType

POLL_SECONDS = 0.5
PROCESSES = ("raylet", "gcs_server")


class RayWatch:
    """Context that interrupts the main thread, as Ctrl-C does, when a process of Ray ends.

    Ray itself ends such a driver some seconds later, without a word. Processes of a cluster that
    the driver has joined are not watched.

    Attributes:
        fault: What ended, in one line; ``None`` while Ray runs.
    """

    def __init__(self) -> None:
        import psutil

        self.fault: str | None = None
        children = psutil.Process().children()
        # a file descriptor of a process can be waited for, and is of no other process
        self._watched = {
            os.pidfd_open(child.pid): child.name()
            for child in children
            if child.name() in PROCESSES
        }
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray watch", daemon=True)

    def lost(self) -> bool:
        """Say whether Ray has ended."""
        return self.fault is not None

    def __enter__(self) -> RayWatch:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Watch no more: Ray's processes end with the driver."""
        self._done.set()
        self._thread.join()
        for descriptor in self._watched:
            os.close(descriptor)

    def _run(self) -> None:
        while not self._done.is_set():
            for ended in select.select([*self._watched], [], [], POLL_SECONDS)[0]:
                # Tune's placement groups ask Ray's head when they are collected, and would wait for
                # it until Ray ends this process
                gc.disable()
                self.fault = f"Ray ended while the sweep ran (its process {self._watched[ended]})"
                os.kill(os.getpid(), signal.SIGINT)
                return


def leave_ray() -> None:
    """Disconnect from a Ray that has ended, so that it does not end this process."""
    import ray

    ray.shutdown()
