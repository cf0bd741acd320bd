"""Supervision of the sending process by the driver: start, reports, restart."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from orchestrator.tracking.tracking_queue import SYNC_SECONDS, QueueWriter

logger = logging.getLogger(__name__)

LOG = "sender.log"
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
READ_BYTES = 1 << 16
# The settings are passed by a pipe, because a URI may hold a password and other users can read a
# command line.
COMMAND = """
import json, sys
settings = json.loads(open(0, "rb", buffering=0, closefd=False).readline())
sys.path[:] = settings.pop("path")
from orchestrator.tracking.mlflow_sender import main
main(**settings)
"""


class SenderProcess:
    """Supervises the process that sends the queue to MLflow, so that the driver does not wait.

    The queue between driver and process is a file, so entries survive the end of either. A process
    that dies is started again. If the driver dies, the process ends within seconds, and the next
    start of the sweep sends the remaining entries. The process is in another session than the
    driver, so that Ctrl-C stops only the driver.

    Args:
        spool: Queue to send; a thread of this object syncs the queue to disk.
        settings: Arguments of `orchestrator.tracking.mlflow_sender.main` except folder and
            patience.
        patience: Seconds before the first connection, unless `hurry` or `flush` is called.
    """

    def __init__(self, spool: QueueWriter, settings: dict[str, Any], patience: float) -> None:
        self._spool, self._settings, self._patience = spool, settings, patience
        self._runs: dict[tuple[str, str], str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock, self._changed = threading.Lock(), threading.Condition()
        self._stopping = threading.Event()
        self._pause = FIRST_PAUSE
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def run_id(self, sweep: str, run: str) -> str | None:
        """Return the MLflow run id, or ``None`` while its entry has not arrived."""
        return self._runs.get((sweep, run))

    def hurry(self) -> None:
        """End the wait before the first connection."""
        if self._patience > 0.0:
            self._patience = 0.0
            self._order("hurry")

    def flush(self, timeout: float) -> bool:
        """Wait until all entries arrived; ``False`` if none arrived for ``timeout`` seconds."""
        self._patience = 0.0
        self._order("flush")
        while not self._spool.empty:
            if not self._moves_on(self._spool.arrived, timeout):
                return self._spool.empty
        return True

    def _moves_on(self, position: int, timeout: float) -> bool:
        """Wait until an entry after ``position`` has arrived, at most ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._spool.arrived > position, timeout)

    def stop(self, timeout: float) -> None:
        """Stop the process after its current entry, and kill it after ``timeout`` seconds."""
        self._stopping.set()
        self._order("stop")
        self._thread.join(timeout)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join()

    def _order(self, word: str) -> None:
        """Send a command to the process, if it runs."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with contextlib.suppress(OSError):  # the process died; `_work` starts another
                    self._process.stdin.write(f"{word}\n".encode())

    def _work(self) -> None:
        """Keep a sending process running until `stop` is called; body of the thread."""
        while not self._stopping.is_set():
            try:
                process = self._start()
            except OSError as error:
                self._rest(str(error))
                continue
            if process is not None:
                self._listen(process)
                self._end(process)
                if not self._stopping.is_set():
                    self._rest(f"status {process.returncode}")

    def _start(self) -> subprocess.Popen[bytes] | None:
        """Start a process, unless `stop` was called."""
        given = {**self._settings, "folder": str(self._spool.folder), "patience": self._patience}
        line = json.dumps({**given, "path": sys.path}).encode() + b"\n"
        with self._lock, (self._spool.folder / LOG).open("ab") as log:
            if self._stopping.is_set():
                return None
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", COMMAND, "tracking", str(self._spool.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # the process died already
                self._process.stdin.write(line)
            return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Read reports until the process ends, and sync the queue to disk meanwhile."""
        assert process.stdout is not None
        reports, rest = process.stdout.fileno(), b""
        while True:
            if select.select([reports], [], [], SYNC_SECONDS)[0]:
                data = os.read(reports, READ_BYTES)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
            self._spool.sync()

    def _take(self, report: dict[str, Any]) -> None:
        """Handle one report, a log record or a list of arrived entries."""
        if "log" in report:
            level, name, text = report["log"]
            logging.getLogger(name).log(level, "%s", text)
            return
        self._runs.update({(sweep, run): found for sweep, run, found in report["runs"]})
        self._pause = FIRST_PAUSE if report["runs"] else self._pause
        self._spool.acknowledged(report["acknowledged"])
        with self._changed:
            self._changed.notify_all()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Close the pipes of a process that has ended."""
        with self._lock:
            self._process = None
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _rest(self, reason: str) -> None:
        """Wait before the next start of a process, longer after each failure."""
        if self._pause == FIRST_PAUSE:
            logger.warning(
                "tracking: the sending process ended (%s; see %s) and is started again; the sweep "
                "continues",
                reason,
                self._spool.folder / LOG,
            )
        end = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        while (left := end - time.monotonic()) > 0:
            self._spool.sync()
            if self._stopping.wait(min(left, SYNC_SECONDS)):
                return
