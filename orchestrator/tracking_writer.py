"""The process that sends a spool to MLflow, in order, for as long as it takes.

`orchestrator.tracking_sender` starts it. Orders come as lines on its standard input, reports go as
JSON lines to its standard output; when the input ends, the driver is gone and so is it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.mlflow_client import connect, ensure_experiment
from orchestrator.mlflow_runs import MlflowRuns
from orchestrator.spool import Outbox

logger = logging.getLogger(__name__)

# Error codes of a request that will never succeed, however often it is sent.
HOPELESS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE = 5, 0.5, 15.0
GATHER_SECONDS = 1.0  # what arrives within it is sent together: fewer calls, longer quiet
REPORT_SECONDS = 5.0  # of sending, after which the driver hears how far it got
GRACE_SECONDS = 5.0  # for a request that is under way when the driver dies

Tell = Callable[[dict[str, Any]], None]


class Writer:
    """Owns the MLflow client and sends what an `Outbox` holds.

    An entry that the tracker refuses for good is set aside in the spool's ``refused.jsonl``; one
    that cannot be sent now is tried again, with pauses of half a second up to fifteen.

    Args:
        outbox: Where entries come from.
        uri: MLflow's address.
        artifact_root: Folder of artifacts when the address is a database.
        experiment: Name of the MLflow experiment.
        patience: Seconds before the first connection, which costs some seconds of computing that a
            starting sweep has better use for; `hurry` and `flush` end the wait.
        tell: Takes reports: ``{"runs": [[sweep, run, id], ...], "acknowledged": position}``.
    """

    def __init__(
        self,
        outbox: Outbox,
        uri: str,
        artifact_root: Path,
        experiment: str,
        patience: float,
        tell: Tell,
    ) -> None:
        self._outbox, self._uri, self._tell = outbox, uri, tell
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
        """Send what there is at once."""
        self._retry_at = 0.0
        self._ordered.set()

    def stop(self) -> None:
        """Stop after the entry in hand."""
        self._stopping = True
        self._ordered.set()

    def work(self) -> None:
        """Send entries until told to stop."""
        self._tell({"runs": [], "acknowledged": self._outbox.position})
        while not self._stopping:
            self._ordered.wait(GATHER_SECONDS)
            self._ordered.clear()
            try:
                if time.monotonic() >= self._retry_at:
                    self._drain()
                self._outbox.sync()
            except OSError as error:  # the spool's disk: reading it may work again later
                logger.warning("tracking spool %s: %s", self._outbox.folder, error)
        self._outbox.close()

    def _drain(self) -> None:
        """Send what is pending, stopping at the first entry that the tracker does not take.

        Entries are acknowledged after what they left open together was settled.
        """
        while entries := self._outbox.pending():
            sent, whole, end = 0, True, time.monotonic() + REPORT_SECONDS
            while sent < len(entries) and time.monotonic() < end and whole:
                whole = not self._stopping and self._send(entries[sent].document)
                sent += whole
            if sent == 0 or not self._settle():
                return
            self._outbox.acknowledge(entries[sent - 1].end)
            self._outbox.sync()
            found = self._runs.take_found() if self._runs else []
            self._tell({"runs": found, "acknowledged": self._outbox.position})
            if not whole:
                return

    def _settle(self) -> bool:
        """Settle what the entries sent so far left open; ``False`` asks to send them again.

        What a tracker refuses that answers otherwise is a list of names that the next trial of the
        same stage completes: no reason to hold entries back.
        """
        assert self._runs is not None, "an entry was sent"
        try:
            self._runs.settle()
        except Exception as error:  # whatever goes wrong in a tracker must leave the sweep alone
            logger.warning("tracking: users of stages not written to %s: %s", self._uri, error)
            if not self._runs.answers():
                self._retry_at = time.monotonic() + self._pause
                return False
        return True

    def _send(self, document: Mapping[str, Any]) -> bool:
        """Send one entry; ``False`` asks to try again later."""
        try:
            if self._runs is None:
                client = connect(self._uri)
                experiment = ensure_experiment(client, self._experiment, self._root)
                self._runs = MlflowRuns(client, experiment)
            self._runs.apply(document)
        except Exception as error:  # whatever goes wrong in a tracker must leave the sweep alone
            return self._failed(document, error)
        if self._down:
            logger.warning("tracking: %s answers again", self._uri)
        self._down, self._failures, self._pause = False, 0, FIRST_PAUSE
        return True

    def _failed(self, document: Mapping[str, Any], error: Exception) -> bool:
        """Set a hopeless entry aside (``True``: go on); wait before the next try otherwise."""
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if self._runs is not None and (
            getattr(error, "error_code", "") in HOPELESS or self._failed_too_often(self._runs)
        ):
            logger.warning("tracking: %s refused an entry, set aside: %s", self._uri, text)
            self._outbox.set_aside(document)
            self._failures = 0
            return True
        if not self._down:
            logger.warning(
                "tracking: %s does not answer (%s); the sweep goes on, entries wait in %s",
                self._uri,
                text,
                self._outbox.folder,
            )
        self._down = True
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return False

    def _failed_too_often(self, runs: MlflowRuns) -> bool:
        """Whether the same entry failed often although the tracker answers other questions."""
        if not runs.answers():
            return False
        self._failures += 1
        return self._failures >= ATTEMPTS


class _Relay(logging.Handler):
    """Hands warnings to the driver, whose log they belong to."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Report one record."""
        self._tell({"log": [record.levelno, record.name, record.getMessage()]})


def main(folder: str, uri: str, artifact_root: str, experiment: str, patience: float) -> None:
    """Send a spool until the driver says stop, or ends.

    Args:
        folder: The spool's.
        uri: See `Writer`.
        artifact_root: See `Writer`.
        experiment: See `Writer`.
        patience: See `Writer`.
    """
    fcntl.flock(sys.stderr, fcntl.LOCK_EX)  # until the process of a killed driver has ended
    tell = _reporter()
    log = logging.getLogger("orchestrator")
    log.addHandler(_Relay(tell))
    log.propagate = False
    outbox = Outbox(Path(folder))
    writer = Writer(outbox, uri, Path(artifact_root), experiment, patience, tell)
    threading.Thread(target=_obey, args=(writer,), name="orders", daemon=True).start()
    writer.work()


def _reporter() -> Tell:
    """Take standard output for reports alone: what libraries print goes to the log."""
    reports = os.dup(1)
    os.dup2(2, 1)

    def tell(report: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the driver is gone; `_obey` sees it too
            os.write(reports, json.dumps(report).encode() + b"\n")

    return tell


def _obey(writer: Writer) -> None:
    """Pass orders on; when they end without a stop, the driver was killed."""
    orders = {"hurry": writer.hurry, "flush": writer.flush, "stop": writer.stop}
    with open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            orders[line.decode().strip()]()
    writer.stop()
    time.sleep(GRACE_SECONDS)
    os._exit(1)
