"""Process that sends the entries of a queue to MLflow, in order, with retries.

`orchestrator.tracking.sender_process` starts the process. It reads commands as lines from standard
input and writes reports as JSON lines to standard output. The end of the input means that the
driver has ended; the process then ends too.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.tracking.mlflow_client import connect, ensure_experiment
from orchestrator.tracking.mlflow_runs import MlflowRuns
from orchestrator.tracking.tracking_queue import FILES, QueueReader
from trainables.text.redaction import redact

logger = logging.getLogger(__name__)

# Error codes of requests that fail again on every retry.
HOPELESS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 5, 0.5, 15.0
GATHER_SECONDS = 1.0  # entries of this interval are sent together, in fewer calls
REPORT_SECONDS = 5.0  # longest time of sending between two reports to the driver
GRACE_SECONDS = 5.0  # time to finish a running request after the driver has died

Tell = Callable[[dict[str, Any]], None]


class MlflowSender:
    """Sends the entries of a `QueueReader` by an MLflow client.

    An entry that MLflow refuses permanently is appended to ``refused.jsonl`` in the queue's folder.
    Any other failed entry is retried, after pauses of 0.5 to 15 seconds.

    Args:
        reader: Reader of the queue.
        uri: MLflow's tracking URI.
        artifact_root: Folder of artifacts if the URI is a database.
        experiment: Name of the MLflow experiment.
        patience: Seconds before the first connection, so that a starting sweep has the CPU time
            that connecting needs; `hurry` and `flush` end the wait.
        tell: Called with reports, ``{"runs": [[sweep, run, id], ...], "acknowledged": position}``.
    """

    def __init__(
        self,
        reader: QueueReader,
        uri: str,
        artifact_root: Path,
        experiment: str,
        patience: float,
        tell: Tell,
    ) -> None:
        self._outbox, self._uri, self._tell = reader, uri, tell
        self._shown = redact(uri)
        self._root, self._experiment = artifact_root, experiment
        self._runs: MlflowRuns | None = None
        self._ordered = threading.Event()
        self._stopping = self._down = False
        self._retry_at = time.monotonic() + patience
        self._pause, self._failures = FIRST_PAUSE, 0

    def hurry(self) -> None:
        """End the wait before the first connection."""
        if self._runs is None and not self._down:
            self.flush()

    def flush(self) -> None:
        """Send all pending entries now."""
        self._retry_at = 0.0
        self._ordered.set()

    def stop(self) -> None:
        """Stop after the current entry."""
        self._stopping = True
        self._ordered.set()

    def work(self) -> None:
        """Send entries until `stop` is called."""
        self._tell({"runs": [], "acknowledged": self._outbox.position})
        while not self._stopping and not self._outbox.replaced:
            self._ordered.wait(GATHER_SECONDS)
            self._ordered.clear()
            try:
                if time.monotonic() >= self._retry_at:
                    self._drain()
                self._outbox.sync()
            except OSError as error:  # a disk error of the queue's folder; the next round retries
                logger.warning("tracking: cannot read %s: %s", self._outbox.folder, error)
        self._outbox.close()

    def _drain(self) -> None:
        """Send the pending entries, up to the first entry that fails."""
        while entries := self._outbox.pending():
            sent, whole, end = 0, True, time.monotonic() + REPORT_SECONDS
            while sent < len(entries) and time.monotonic() < end and whole:
                whole = self._may_send() and self._send(entries[sent].document)
                sent += whole
            if sent == 0:
                return
            self._outbox.acknowledge(entries[sent - 1].end)
            self._outbox.sync()
            found = self._runs.take_found() if self._runs else []
            self._tell({"runs": found, "acknowledged": self._outbox.position})
            if not whole:
                return

    def _may_send(self) -> bool:
        """Whether this process is the one that sends: neither stopped nor replaced."""
        return not self._stopping and not self._outbox.replaced

    def _send(self, document: Mapping[str, Any]) -> bool:
        """Send one entry; ``False``: retry the entry later."""
        try:
            if self._runs is None:
                client = connect(self._uri)
                experiment = ensure_experiment(client, self._experiment, self._root)
                files = self._outbox.folder / FILES
                self._runs = MlflowRuns(client, experiment, files)
            self._runs.apply(document)
        except Exception as error:  # no error of tracking may stop the sweep
            return self._failed(document, error)
        if self._down:
            logger.warning("tracking: %s answers again", self._shown)
        self._down, self._failures, self._pause = False, 0, FIRST_PAUSE
        return True

    def _failed(self, document: Mapping[str, Any], error: Exception) -> bool:
        """Set aside an entry that will fail again (``True``), or schedule a retry (``False``)."""
        text = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        if self._runs is not None and (
            getattr(error, "error_code", "") in HOPELESS or self._failed_too_often(self._runs)
        ):
            logger.warning("tracking: %s refused an entry, now set aside: %s", self._shown, text)
            self._outbox.set_aside(document)
            self._failures = 0
            return True
        if not self._down:
            logger.warning(
                "tracking: %s does not answer (%s); the sweep continues, entries wait in %s",
                self._shown,
                text,
                self._outbox.folder,
            )
        self._down = True
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return False

    def _failed_too_often(self, runs: MlflowRuns) -> bool:
        """Return True if one entry failed `ATTEMPTS` times while MLflow answered other requests."""
        if not runs.is_reachable():
            return False
        self._failures += 1
        return self._failures >= ATTEMPTS


class _Relay(logging.Handler):
    """Sends log records to the driver, which logs them."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Report one record."""
        self._tell({"log": [record.levelno, record.name, redact(record.getMessage())]})


class _RedactedLog(io.TextIOWrapper):
    """Standard error without passwords: it is ``sender.log``, and errors may quote the address."""

    def write(self, text: str) -> int:
        """Write a text; a password that is written in two parts is not recognized."""
        return super().write(redact(text))


def main(folder: str, uri: str, artifact_root: str, experiment: str, patience: float) -> None:
    """Send the entries of a queue until the driver stops this process or ends.

    Args:
        folder: Folder of the queue.
        uri: See `MlflowSender`.
        artifact_root: See `MlflowSender`.
        experiment: See `MlflowSender`.
        patience: See `MlflowSender`.
    """
    _await_predecessor()
    sys.stderr = _RedactedLog(sys.stderr.buffer, "utf-8", line_buffering=True)
    tell = _reporter()
    log = logging.getLogger("orchestrator")
    log.addHandler(_Relay(tell))
    log.propagate = False
    reader = QueueReader(Path(folder))
    sender = MlflowSender(reader, uri, Path(artifact_root), experiment, patience, tell)
    threading.Thread(target=_obey, args=(sender,), name="orders", daemon=True).start()
    sender.work()


def _await_predecessor() -> None:
    """Wait until the process of a killed driver has sent its last entry.

    One that sleeps with its driver is not waited for: it sends nothing more when it wakes.
    """
    end = time.monotonic() + 2 * GRACE_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            fcntl.flock(sys.stderr, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.1)


def _reporter() -> Tell:
    """Return the function that writes reports, and redirect standard output to the log."""
    reports = os.dup(1)
    os.dup2(2, 1)

    def tell(report: dict[str, Any]) -> None:
        with contextlib.suppress(
            BrokenPipeError
        ):  # the driver has ended; `_obey` ends this process
            os.write(reports, json.dumps(report).encode() + b"\n")

    return tell


def _obey(sender: MlflowSender) -> None:
    """Execute the driver's commands; their end without a stop means that the driver was killed."""
    orders = {"hurry": sender.hurry, "flush": sender.flush, "stop": sender.stop}
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            orders[line.decode().strip()]()
    sender.stop()
    time.sleep(GRACE_SECONDS)
    os._exit(1)
