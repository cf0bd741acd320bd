"""The thread that sends a spool to MLflow, in order, for as long as it takes."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.mlflow_client import connect, ensure_experiment
from orchestrator.mlflow_runs import MlflowRuns
from orchestrator.spool import Spool

logger = logging.getLogger(__name__)

# Error codes of a request that will never succeed, however often it is sent.
HOPELESS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
ATTEMPTS, FIRST_PAUSE, LONGEST_PAUSE, LONGEST_TICK = 5, 0.5, 15.0, 1.0
GATHER_SECONDS = 1.0  # what arrives within it is sent together: fewer calls, longer quiet


class Writer:
    """Owns the MLflow client and sends what a `Spool` holds.

    An entry that the tracker refuses for good is set aside in the spool's ``refused.jsonl``; one
    that cannot be sent now is tried again, with pauses of half a second up to fifteen.

    Args:
        spool: Where entries come from.
        uri: MLflow's address.
        artifact_root: Folder of artifacts when the address is a database.
        experiment: Name of the MLflow experiment.
        patience: Seconds before the first connection, which costs some seconds of computing that a
            starting sweep has better use for; `hurry` and `flush` end the wait.
    """

    def __init__(
        self, spool: Spool, uri: str, artifact_root: Path, experiment: str, patience: float
    ) -> None:
        self._spool, self._uri = spool, uri
        self._root, self._experiment = artifact_root, experiment
        self.runs: MlflowRuns | None = None
        self._wake, self._changed = threading.Event(), threading.Condition()
        self._urgent, self._drained = threading.Event(), -GATHER_SECONDS
        self._stopping = self._down = False
        self._retry_at = time.monotonic() + patience
        self._pause, self._failures = FIRST_PAUSE, 0
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to send."""
        self._wake.set()

    def hurry(self) -> None:
        """End the wait before the first connection."""
        if self.runs is None and not self._down:
            self._retry_at = 0.0
        self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Wait until everything arrived; ``False`` when it did not in time."""
        self._retry_at = 0.0
        self._urgent.set()
        self._wake.set()
        with self._changed:
            arrived = self._changed.wait_for(lambda: self._spool.empty, timeout)
        self._urgent.clear()
        return arrived

    def stop(self, timeout: float) -> bool:
        """Stop after the entry in hand, and close the spool; ``False`` when a request hangs."""
        self._stopping = True
        self._urgent.set()
        self._wake.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False  # it still reads the spool, which the process's end will release
        if self._spool.empty:
            shutil.rmtree(self._spool.folder / "files", ignore_errors=True)
        self._spool.close()
        return True

    def _work(self) -> None:
        """Send entries until told to stop: the body of the thread."""
        while not self._stopping:
            self._wake.wait(LONGEST_TICK)
            self._urgent.wait(max(0.0, self._drained + GATHER_SECONDS - time.monotonic()))
            self._wake.clear()
            try:
                if time.monotonic() >= self._retry_at:
                    self._drain()
                    self._drained = time.monotonic()
                self._spool.sync()
            except OSError as error:  # the spool's disk: reading it may work again later
                logger.warning("tracking spool %s: %s", self._spool.folder, error)
            with self._changed:
                self._changed.notify_all()

    def _drain(self) -> None:
        """Send what is pending, stopping at the first entry that the tracker does not take.

        Entries are acknowledged after what they left open together was settled.
        """
        while entries := self._spool.pending():
            sent = 0
            for entry in entries:
                if self._stopping or not self._send(entry.document):
                    break
                sent += 1
            if sent == 0 or not self._settle():
                return
            self._spool.acknowledge(entries[sent - 1].end)
            self._spool.sync()
            if sent < len(entries):
                return

    def _settle(self) -> bool:
        """Settle what the entries sent so far left open; ``False`` asks to send them again.

        What a tracker refuses that answers otherwise is a list of names that the next trial of the
        same stage completes: no reason to hold entries back.
        """
        assert self.runs is not None, "an entry was sent"
        try:
            self.runs.settle()
        except Exception as error:  # whatever goes wrong in a tracker must leave the sweep alone
            logger.warning("tracking: users of stages not written to %s: %s", self._uri, error)
            if not self.runs.answers():
                self._retry_at = time.monotonic() + self._pause
                return False
        return True

    def _send(self, document: Mapping[str, Any]) -> bool:
        """Send one entry; ``False`` asks to try again later."""
        try:
            if self.runs is None:
                client = connect(self._uri)
                experiment = ensure_experiment(client, self._experiment, self._root)
                self.runs = MlflowRuns(client, experiment)
            self.runs.apply(document)
        except Exception as error:  # whatever goes wrong in a tracker must leave the sweep alone
            return self._failed(document, error)
        if self._down:
            logger.warning("tracking: %s answers again", self._uri)
        self._down, self._failures, self._pause = False, 0, FIRST_PAUSE
        return True

    def _failed(self, document: Mapping[str, Any], error: Exception) -> bool:
        """Set a hopeless entry aside (``True``: go on); wait before the next try otherwise."""
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if self.runs is not None and (
            getattr(error, "error_code", "") in HOPELESS or self._failed_too_often(self.runs)
        ):
            logger.warning("tracking: %s refused an entry, set aside: %s", self._uri, text)
            self._spool.set_aside(document)
            self._failures = 0
            return True
        if not self._down:
            logger.warning(
                "tracking: %s does not answer (%s); the sweep goes on, entries wait in %s",
                self._uri,
                text,
                self._spool.folder,
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
