"""Detection of Ctrl-C while Ray Tune runs, whose signal handler hides SIGINT from the sweep."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from orchestrator.execution.infrastructure import InfrastructureError


class Interrupts:
    """Context that detects SIGINT and restores the earlier signal handler.

    Tune installs a handler that ends its loop after the trials' last reports. The handler does not
    inform the caller of ``fit`` and stays installed afterwards. Without this context, a sweep would
    run its finalists after Ctrl-C and ignore a second Ctrl-C.

    Args:
        lost: Returns True if Ray has ended; Tune's handler is not called then.
    """

    def __init__(self, lost: Callable[[], bool] = lambda: False) -> None:
        self.lost = lost
        self.seen = False
        self.fault: str | None = None
        self._main = threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        """Store the present handler."""
        if self._main:
            self._before = signal.getsignal(signal.SIGINT)
        return self

    def listen(self) -> None:
        """Install a handler that sets ``seen`` and calls Tune's; to be called once Tune runs."""
        if not self._main:
            return
        installed = signal.getsignal(signal.SIGINT)

        def noticed(number: int, frame: FrameType | None) -> None:
            self.seen = True
            if self.lost():  # Tune's loop would wait for a Ray that is gone
                raise KeyboardInterrupt
            if callable(installed):
                installed(number, frame)

        signal.signal(signal.SIGINT, noticed)

    def stop(self, fault: str) -> None:
        """End Tune's loop as Ctrl-C does, because disk, host or Ray failed."""
        self.fault = self.fault or fault
        os.kill(os.getpid(), signal.SIGINT)

    def check(self) -> None:
        """Return if Tune's loop ended by itself.

        Raises:
            InfrastructureError: `stop` ended the loop.
            KeyboardInterrupt: Ctrl-C did.
        """
        if self.fault is not None:
            raise InfrastructureError(self.fault)
        if self.seen:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        """Restore the stored handler."""
        if self._main:
            signal.signal(signal.SIGINT, self._before)
