"""The driver's hand to MLflow: every call is spooled at once and sent by another process."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.mlflow_client import tracking_uri
from orchestrator.mlflow_runs import SWEEP, stage_run
from orchestrator.records import Scalar, StageUse, TrialRecord
from orchestrator.spool import Spool
from orchestrator.tracking_sender import Sender

__all__ = ["SWEEP", "Tracker", "stage_run"]

logger = logging.getLogger(__name__)

SAMPLE_SECONDS, PATIENCE_SECONDS = 10.0, 20.0


class Tracker:
    """Records a sweep in MLflow without ever delaying or failing it.

    Calls return in microseconds: they append to a `Spool`, and a process that owns the client sends
    it on, in order. A tracker that is down is reported once; what it missed is sent when it is
    back, or by the next process that opens the same spool, with its own times and steps. Runs are
    found by identity tags, so that a second start of the same sweep adopts them. Use it in the
    driver only: one writer per run.

    Run names (the argument ``run``): `SWEEP`, a trial's id, or ``stage_run(key)``.
    """

    def __init__(self, uri: str, spool: Spool, sender: Sender) -> None:
        self.uri = uri
        self._spool, self._sender = spool, sender
        self._sweep = ""
        self._stages: set[str] = set()
        self._sampler: _Sampler | None = None

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
        """Start a tracker and return at once; importing and connecting happen in its process.

        Args:
            uri: MLflow's address; ``None`` means ``MLFLOW_TRACKING_URI``, else a sqlite file
                ``mlflow.db`` below ``artifact_root``, created when first needed.
            artifact_root: Folder of the embedded database and of its artifacts.
            experiment: Name of the MLflow experiment, e.g. the study's.
            spool: Folder of the sweep's spool; what an earlier process left there is sent first.
            patience: Seconds until the process connects, unless a trial ends before: the first
                trial needs the processor more than MLflow's import and migrations do.

        Raises:
            RuntimeError: Another process tracks the same sweep.
        """
        address, queue = tracking_uri(uri, artifact_root), Spool(spool)
        settings = {
            "uri": address,
            "artifact_root": str(artifact_root),
            "experiment": experiment,
        }
        return cls(address, queue, Sender(queue, settings, patience))

    def start_sweep(
        self,
        name: str,
        *,
        params: Mapping[str, Scalar],
        tags: Mapping[str, str],
        experiment: Mapping[str, Any] | None = None,
    ) -> None:
        """Create or adopt the sweep's run; end trials that a killed driver left running.

        Args:
            name: The sweep's name; its run is found again by it.
            params: Logged as parameters.
            tags: Git commit, data digest, seed, environment; a tag ``git`` is also MLflow's own.
            experiment: The resolved configuration, logged as ``experiment.yaml``.
        """
        self._sweep = name
        self._put("reconcile", SWEEP)
        self._start(SWEEP, name, params, tags, experiment)
        if self._sampler is None:
            self._sampler = _Sampler(self)

    def start_trial(
        self,
        trial_id: str,
        number: int,
        *,
        params: Mapping[str, Scalar],
        tags: Mapping[str, str] | None = None,
        experiment: Mapping[str, Any] | None = None,
    ) -> None:
        """Create or adopt a trial's run below the sweep's."""
        tags = {"orchestrator.number": str(number), **(tags or {})}
        self._start(trial_id, f"trial {number:03d}", params, tags, experiment)

    def log_history(self, run: str, rows: Iterable[Mapping[str, float]]) -> None:
        """Log metrics, one row per report; the key ``epoch`` of a row is its step."""
        now = _now()
        listed = [
            (now, int(row.get("epoch", i)), {k: float(v) for k, v in row.items() if k != "epoch"})
            for i, row in enumerate(rows)
        ]
        if listed:
            self._put("metrics", run, rows=listed)

    def record_stage(self, use: StageUse, params: Mapping[str, Scalar]) -> None:
        """Record a computed stage as a run beside the trials, once per key."""
        if use.key in self._stages:
            return
        self._stages.add(use.key)
        self._put("stage", stage_run(use.key), use=use.model_dump(), params=dict(params))

    def finish_trial(self, trial: TrialRecord) -> None:
        """Log a trial's outcome, link it with the runs of its stages both ways, and end its run."""
        tags: dict[str, str] = {"orchestrator.state": trial.state}
        if trial.error:
            tags["orchestrator.error"] = trial.error
        metrics = {**trial.metrics, "trial/seconds": trial.seconds}
        stages = {use.stage: use.key for use in trial.stages}
        for use in trial.stages:
            self.record_stage(use, {})
        self._finish(trial.trial_id, trial.state, metrics, tags, stages)
        self._sender.hurry()

    def finish_sweep(
        self,
        status: str = "FINISHED",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End the sweep's run with an MLflow status: FINISHED, FAILED or KILLED."""
        self._stop_sampling()
        self._finish(SWEEP, status, metrics or {}, tags or {}, {})

    def log_figures(
        self, run: str, figures: Mapping[str, bytes | Path], *, path: str = "figures"
    ) -> None:
        """Log pictures by file name, e.g. ``{"confusion.png": data}``; they are copied at once."""
        folder = self._spool.folder / "files" / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True)
            for name, content in figures.items():
                if isinstance(content, Path):
                    shutil.copyfile(content, folder / name)
                else:
                    (folder / name).write_bytes(content)
        except OSError as error:
            logger.warning("tracking: figures of %s not kept: %s", run, error)
            return
        self._put("files", run, folder=str(folder.resolve()), path=path, temporary=True)

    def log_folder(self, run: str, folder: Path, path: str = "") -> None:
        """Log a folder that stays where it is until it was sent."""
        self._put("files", run, folder=str(folder.resolve()), path=path, temporary=False)

    def run_id(self, run: str) -> str | None:
        """Return the MLflow run id, or ``None`` while its entry has not arrived (see `flush`)."""
        return self._sender.run_id(self._sweep, run)

    def flush(self, timeout: float = 60.0) -> bool:
        """Wait until everything arrived; ``False`` when the tracker took nothing for so long."""
        return self._sender.flush(timeout)

    def close(self, timeout: float = 60.0) -> bool:
        """Flush and stop; what did not arrive stays in the spool for the next start."""
        self._stop_sampling()
        arrived = self._sender.flush(timeout)
        self._sender.stop(max(5.0, timeout / 4))
        if self._spool.empty:
            shutil.rmtree(self._spool.folder / "files", ignore_errors=True)
        self._spool.close()
        if not arrived:
            logger.warning(
                "tracking: %s did not take everything; the rest waits in %s and is sent by the "
                "next start of this sweep",
                self.uri,
                self._spool.folder,
            )
        return arrived

    def _stop_sampling(self) -> None:
        """End the host's load curve."""
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None

    def _put(self, op: str, run: str, **content: Any) -> None:
        """Spool one entry with the present time."""
        self._spool.append({"op": op, "sweep": self._sweep, "run": run, "time": _now(), **content})

    def _start(
        self,
        run: str,
        name: str,
        params: Mapping[str, Scalar],
        tags: Mapping[str, str],
        experiment: Mapping[str, Any] | None,
    ) -> None:
        """Spool the start of a run."""
        texts = {} if experiment is None else {"experiment.yaml": dict(experiment)}
        own = {"mlflow.source.git.commit": tags["git"]} if "git" in tags else {}
        tags = {**tags, **own}
        self._put("start", run, name=name, params=dict(params), tags=tags, texts=texts)

    def _finish(
        self,
        run: str,
        status: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        stages: Mapping[str, str],
    ) -> None:
        """Spool the end of a run."""
        self._put(
            "finish", run, status=status, metrics=dict(metrics), tags=dict(tags), stages=stages
        )


class _Sampler:
    """Spools the driver's host load, under the names that MLflow's own page shows."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="host load", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no further sample."""
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        """Sample until stopped."""
        try:
            import psutil
        except ImportError:
            logger.info("tracking: psutil is not installed, the host's load is not recorded")
            return
        count = 0
        while not self._stopped.wait(SAMPLE_SECONDS):
            memory = psutil.virtual_memory()
            values = {
                "epoch": count,
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_megabytes": memory.used / 1e6,
                "system/system_memory_usage_percentage": memory.percent,
            }
            self._tracker.log_history(SWEEP, [values])
            count += 1


def _now() -> int:
    """Return the time in milliseconds, as MLflow counts it."""
    return time.time_ns() // 1_000_000
