"""Tracker of a sweep, whose calls are queued on disk and sent to MLflow by another process."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from orchestrator.records import Scalar, TrialRecord
from orchestrator.tracking.mlflow_client import tracking_uri
from orchestrator.tracking.mlflow_runs import SWEEP
from orchestrator.tracking.sender_process import SenderProcess
from orchestrator.tracking.tracking_queue import FILES, QueueWriter
from trainables.data.source_names import with_last_names
from trainables.text.redaction import redact

__all__ = ["SWEEP", "RunOrigin", "Tracker"]

logger = logging.getLogger(__name__)

SAMPLE_SECONDS, PATIENCE_SECONDS = 10.0, 20.0


class RunOrigin(NamedTuple):
    """What is logged with every run of a sweep: where it comes from.

    ``dataset`` has the items that `orchestrator.tracking.mlflow_calls.log_dataset` names.
    """

    tags: Mapping[str, str] = MappingProxyType({})
    dataset: Mapping[str, str] | None = None


class Tracker:
    """Logs a sweep to MLflow without delaying or stopping the sweep.

    Calls return in microseconds, because they only append entries to a `QueueWriter`; another
    process sends the entries in order. If MLflow does not answer, one warning is logged, and the
    entries are sent later with their original times and steps: when MLflow answers again, or by the
    next process that opens the same spool. Runs are found by identity tags, so a resumed sweep
    continues its runs. Only the driver may use a tracker, so that each run has one writer.

    The argument ``run`` is `SWEEP` or a trial's id.
    """

    def __init__(self, uri: str, spool: QueueWriter, sender: SenderProcess) -> None:
        self.uri = uri
        self._spool, self._sender = spool, sender
        self._sweep = ""
        self._origin = RunOrigin()
        self._system_metrics: _SystemMetrics | None = None

    @classmethod
    def open(
        cls,
        uri: str | None,
        artifact_root: Path,
        experiment: str,
        spool: Path,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> Tracker:
        """Start a tracker without waiting for MLflow's import and connection.

        Args:
            uri: MLflow's tracking URI; ``None``: ``MLFLOW_TRACKING_URI``, else a sqlite file
                ``mlflow.db`` below ``artifact_root``, created when first needed.
            artifact_root: Folder of the sqlite file and of its artifacts.
            experiment: Name of the MLflow experiment, such as the name of the search space.
            spool: Folder of the sweep's queue; entries of an earlier process are sent first.
            patience: Seconds until the process connects, unless a trial ends before. The delay
                leaves the CPU to the first trial, because MLflow's import takes seconds.

        Raises:
            SweepLostError: Another driver has the sweep.
        """
        address, queue = tracking_uri(uri, artifact_root), QueueWriter(spool)
        settings = {
            "uri": address,
            "artifact_root": str(artifact_root),
            "experiment": experiment,
        }
        return cls(address, queue, SenderProcess(queue, settings, patience))

    def start_sweep(
        self,
        name: str,
        *,
        params: Mapping[str, Scalar],
        tags: Mapping[str, str],
        experiment: Mapping[str, Any] | None = None,
        origin: RunOrigin | None = None,
    ) -> None:
        """Create or find the sweep's run, and end runs of trials that a killed driver left running.

        Args:
            name: The sweep's name, which identifies its run.
            params: Parameters to log.
            tags: Tags of the sweep's run alone.
            experiment: Resolved recipe, logged as ``experiment.yaml``.
            origin: What is logged with every run of the sweep.
        """
        self._sweep, self._origin = name, origin or RunOrigin()
        self._put("reconcile", SWEEP)
        self._start(SWEEP, name, params, tags, experiment)
        if self._system_metrics is None:
            self._system_metrics = _SystemMetrics(self)

    def start_trial(
        self,
        trial_id: str,
        number: int,
        *,
        params: Mapping[str, Scalar],
        tags: Mapping[str, str] | None = None,
        experiment: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        """Create or find a trial's run as a child of the sweep's run; ``name`` is shown."""
        tags = {"orchestrator.number": str(number), **(tags or {})}
        self._start(trial_id, name or f"trial {number:03d}", params, tags, experiment)

    def log_history(
        self, run: str, rows: Iterable[Mapping[str, float]], *, once: bool = False
    ) -> None:
        """Log metrics, one row per report, with ``epoch`` as the step.

        Args:
            run: The run.
            rows: Reports.
            once: Leave out values whose step the run has already, from an earlier call.
        """
        now = _now()
        listed = [
            (now, int(row.get("epoch", i)), {k: float(v) for k, v in row.items() if k != "epoch"})
            for i, row in enumerate(rows)
        ]
        if listed:
            self._put("metrics", run, rows=listed, **({"once": True} if once else {}))

    def finish_trial(self, trial: TrialRecord, *, once: bool = False) -> None:
        """Log a trial's outcome, name the stage results it used by tags, and end its run.

        With ``once``, metrics that the run has already are not logged again.
        """
        reused = [use.stage for use in trial.stages if use.reused]
        tags = {"orchestrator.state": trial.state, "orchestrator.reused": " ".join(reused)}
        if trial.error:
            tags["orchestrator.error"] = trial.error
        spent = {f"seconds/{use.stage}": use.seconds for use in trial.stages if not use.reused}
        metrics = {**trial.metrics, **spent, "trial/seconds": trial.seconds}
        stages = {use.stage: use.key for use in trial.stages}
        self._finish(trial.trial_id, trial.state, metrics, tags, stages, once=once)
        self._sender.hurry()

    def finish_sweep(
        self,
        status: str = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        step: int = 0,
    ) -> None:
        """End the sweep's run with an MLflow status: FINISHED, FAILED or KILLED.

        Args:
            status: The status.
            metrics: Results; those that the run has at this step are not logged again.
            tags: Tags of the run.
            step: Step of the results, the number of trials.
        """
        self._stop_sampling()
        self._finish(SWEEP, status, metrics or {}, tags or {}, {}, once=True, step=step)

    def log_files(self, run: str, files: Mapping[str, bytes | Path], *, path: str = "") -> None:
        """Log files by name, such as ``{"confusion.png": data}``, copied at once.

        Args:
            run: The run.
            files: Content, or a file that has it.
            path: Folder in the run's artifacts; empty: their top.
        """
        folder = self._spool.folder / FILES / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True)
            for name, content in files.items():
                if isinstance(content, Path):
                    shutil.copyfile(content, folder / name)
                else:
                    (folder / name).write_bytes(content)
        except OSError as error:
            logger.warning("tracking: cannot save files of %s: %s", run, error)
            shutil.rmtree(folder, ignore_errors=True)
            return
        self._put("files", run, folder=folder.name, path=path)

    def run_id(self, run: str) -> str | None:
        """Return the MLflow run id; ``None`` until the run's entry has arrived (see `flush`)."""
        return self._sender.run_id(self._sweep, run)

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until all entries arrived; ``False`` if none arrived for ``timeout`` seconds."""
        return self._sender.flush(timeout)

    def close(self, timeout: float = 60.0) -> bool:
        """Flush and stop; entries that did not arrive stay in the queue for the next start."""
        self._stop_sampling()
        arrived = self._sender.flush(timeout)
        self._sender.stop(max(5.0, timeout / 4))
        if self._spool.empty:
            shutil.rmtree(self._spool.folder / FILES, ignore_errors=True)
        self._spool.close()
        if not arrived:
            logger.warning(
                "tracking: %s did not accept all entries; the others wait in %s and are sent by "
                "the next start of this sweep",
                redact(self.uri),
                self._spool.folder,
            )
        return arrived

    def _stop_sampling(self) -> None:
        """Stop sampling the host's load."""
        if self._system_metrics is not None:
            self._system_metrics.stop()
            self._system_metrics = None

    def _put(self, op: str, run: str, **content: Any) -> None:
        """Queue one entry with the present time."""
        self._spool.append({"op": op, "sweep": self._sweep, "run": run, "time": _now(), **content})

    def _start(
        self,
        run: str,
        name: str,
        params: Mapping[str, Scalar],
        tags: Mapping[str, str],
        experiment: Mapping[str, Any] | None,
    ) -> None:
        """Queue the start of a run; paths to elsewhere are cut to their last names."""
        content = {
            "name": name,
            "params": with_last_names(params),
            "tags": {**self._origin.tags, **tags},
            "texts": {} if experiment is None else {"experiment.yaml": with_last_names(experiment)},
            "dataset": self._origin.dataset,
        }
        self._put("start", run, **content)

    def _finish(
        self,
        run: str,
        status: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        stages: Mapping[str, str],
        *,
        once: bool = False,
        step: int = 0,
    ) -> None:
        """Queue the end of a run."""
        given = {"metrics": dict(metrics), "tags": dict(tags), "stages": stages, "step": step}
        self._put("finish", run, status=status, **given, **({"once": True} if once else {}))


class _SystemMetrics:
    """Logs the load of the driver's host, as MLflow's system metrics."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="host load", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        """Sample until `stop` is called."""
        try:
            import psutil
        except ImportError:
            logger.info("tracking: psutil is not installed, so the host's load is not logged")
            return
        while not self._stopped.wait(SAMPLE_SECONDS):
            memory = psutil.virtual_memory()
            values = {
                "epoch": int(time.time() / SAMPLE_SECONDS),  # goes on when the sweep does
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_megabytes": memory.used / 1e6,
                "system/system_memory_usage_percentage": memory.percent,
            }
            self._tracker.log_history(SWEEP, [values])


def _now() -> int:
    """Return the time in milliseconds since 1970, MLflow's unit."""
    return time.time_ns() // 1_000_000
