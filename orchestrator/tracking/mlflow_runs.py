"""MLflow runs of a sweep, to which queued entries are applied idempotently."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.tracking.mlflow_calls import (
    allowed_name,
    log_dataset,
    log_params,
    log_rows,
    quoted,
    short_text,
)

Row = tuple[int, int, Mapping[str, float]]  # time in ms, step, values
logger = logging.getLogger(__name__)

SWEEP = "sweep"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}


def identity(sweep: str, run: str) -> dict[str, str]:
    """Return the tags that identify a run in MLflow.

    Example:
        >>> identity("july", "t1")
        {'orchestrator.kind': 'trial', 'orchestrator.sweep': 'july', 'orchestrator.trial_id': 't1'}
    """
    if run == SWEEP:
        return {"orchestrator.kind": "sweep", "orchestrator.sweep": sweep}
    return {
        "orchestrator.kind": "trial",
        "orchestrator.sweep": sweep,
        "orchestrator.trial_id": run,
    }


class MlflowRuns:
    """Runs of one MLflow experiment, found by their identity tags.

    Args:
        client: An ``MlflowClient``.
        experiment_id: MLflow experiment of all runs.
        files: Folder of the files that entries name, one folder per entry.
    """

    def __init__(self, client: Any, experiment_id: str, files: Path) -> None:
        self._client, self._files_folder = client, files
        self._experiment = experiment_id
        self._ids: dict[tuple[str, str], str] = {}
        self._found: list[tuple[str, str, str]] = []  # since `take_found`

    def run_id(self, sweep: str, run: str) -> str | None:
        """Return the id of a run that this object has found or created."""
        return self._ids.get((sweep, run))

    def take_found(self) -> list[tuple[str, str, str]]:
        """Return (sweep, run, id) of the runs found or created since the last call."""
        found, self._found = self._found, []
        return found

    def is_reachable(self) -> bool:
        """Return True if MLflow answers a simple request now."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:  # any error means that MLflow is not reachable
            return False
        return True

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Apply one entry; one that an earlier version queued, of a kind that is gone, is ignored.

        Raises:
            MlflowException: MLflow refused the request or did not answer.
        """
        action = {
            "start": self._start,
            "metrics": self._metrics,
            "finish": self._finish,
            "files": self._files,
            "reconcile": self._reconcile,
        }.get(entry["op"])
        if action is not None:
            action(entry)

    def _find(self, sweep: str, run: str) -> Any | None:
        """Return the run with these identity tags, or ``None``."""
        wanted = (f"tags.`{k}` = '{quoted(v)}'" for k, v in identity(sweep, run).items())
        runs = self._client.search_runs(
            [self._experiment], " and ".join(wanted), max_results=1, order_by=["start_time ASC"]
        )
        return runs[0] if runs else None

    def _ensure(
        self,
        sweep: str,
        run: str,
        *,
        name: str,
        start: int,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        dataset: Mapping[str, str] | None = None,
    ) -> tuple[str, str]:
        """Find or create a run, log its dataset and missing parameters; return id and status."""
        found = self._find(sweep, run)
        tags = {**{k: short_text(v) for k, v in tags.items()}, **identity(sweep, run)}
        if found is None:
            links = {}
            if run != SWEEP:
                links["mlflow.parentRunId"] = self._known(sweep, SWEEP, start)
            found = self._client.create_run(
                self._experiment, start_time=start, tags={**tags, **links}, run_name=name
            )
            tags = {}
            if dataset:
                log_dataset(self._client, str(found.info.run_id), dataset)
        run_id = self._remember(sweep, run, str(found.info.run_id))
        logged = found.data.params
        changed = {k: v for k, v in params.items() if logged.get(k, short_text(v)) != short_text(v)}
        tags |= {
            f"orchestrator.changed.{allowed_name(k)}": short_text(v) for k, v in changed.items()
        }
        log_params(self._client, run_id, {k: v for k, v in params.items() if k not in logged}, tags)
        return run_id, str(found.info.status)

    def _known(self, sweep: str, run: str, time: int) -> str:
        """Return a run's id; an empty run is created if its start entry has not arrived."""
        if (sweep, run) not in self._ids:
            found = self._find(sweep, run)
            if found is None:
                self._ensure(sweep, run, name=run, start=time, tags={}, params={})
            else:
                self._remember(sweep, run, str(found.info.run_id))
        return self._ids[sweep, run]

    def _remember(self, sweep: str, run: str, run_id: str) -> str:
        """Store the id of a run and return the id."""
        self._ids[sweep, run] = run_id
        self._found.append((sweep, run, run_id))
        return run_id

    def _start(self, entry: Mapping[str, Any]) -> None:
        """Create or find a run and set its status to RUNNING."""
        sweep, run = entry["sweep"], entry["run"]
        run_id, status = self._ensure(
            sweep,
            run,
            name=entry["name"],
            start=entry["time"],
            tags=entry["tags"],
            params=entry["params"],
            dataset=entry.get("dataset"),
        )
        if status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        for name, content in entry["texts"].items():
            text = content if isinstance(content, str) else _yaml(content)
            self._client.log_text(run_id, text, name)

    def _metrics(self, entry: Mapping[str, Any]) -> None:
        """Log rows of metrics with the times of their queueing."""
        run_id = self._known(entry["sweep"], entry["run"], entry["time"])
        rows = [(time, step, values) for time, step, values in entry["rows"]]
        log_rows(self._client, run_id, self._new(run_id, rows, entry))

    def _new(self, run_id: str, rows: list[Row], entry: Mapping[str, Any]) -> list[Row]:
        """Return what to log of an entry's rows: with ``once``, values of steps not logged yet."""
        if not entry.get("once"):
            return rows
        logged = {
            (name, metric.step)
            for name in self._client.get_run(run_id).data.metrics
            for metric in self._client.get_metric_history(run_id, name)
        }
        return [
            (time, step, {k: v for k, v in row.items() if (allowed_name(k), step) not in logged})
            for time, step, row in rows
        ]

    def _finish(self, entry: Mapping[str, Any]) -> None:
        """Log final metrics and tags, name the stage results that the run used, and end the run."""
        sweep, time = entry["sweep"], entry["time"]
        run_id = self._known(sweep, entry["run"], time)
        stages = {f"orchestrator.stage.{stage}": key for stage, key in entry["stages"].items()}
        tags = {**{k: short_text(v) for k, v in entry["tags"].items()}, **stages}
        rows = self._new(run_id, [(time, entry.get("step", 0), entry["metrics"])], entry)
        log_rows(self._client, run_id, rows, tags)
        status = STATUS.get(entry["status"], entry["status"])
        self._client.set_terminated(run_id, status, end_time=time)

    def _files(self, entry: Mapping[str, Any]) -> None:
        """Log a folder of the spool as artifacts, then remove it; a missing one was logged.

        An entry names a folder below the spool's own, because whoever can write the spool could
        otherwise have any folder of this user sent and deleted.
        """
        name = Path(str(entry["folder"])).name  # former entries hold a path
        folder = self._files_folder / name
        if name in ("", "..") or folder.is_symlink() or not folder.is_dir():
            return
        if any(path.is_symlink() for path in folder.rglob("*")):
            logger.warning("tracking: %s holds links and is not sent", folder)
            return
        run_id = self._known(entry["sweep"], entry["run"], entry["time"])
        self._client.log_artifacts(run_id, str(folder), entry["path"] or None)
        shutil.rmtree(folder, ignore_errors=True)

    def _reconcile(self, entry: Mapping[str, Any]) -> None:
        """End the trials' runs that a killed driver left in status RUNNING."""
        text = (
            f"tags.`orchestrator.sweep` = '{quoted(entry['sweep'])}' and "
            "tags.`orchestrator.kind` = 'trial' and attributes.status = 'RUNNING'"
        )
        for run in list(self._client.search_runs([self._experiment], text, max_results=50_000)):
            self._client.set_tag(run.info.run_id, "orchestrator.reconciled", "driver was killed")
            self._client.set_terminated(run.info.run_id, "KILLED", end_time=entry["time"])


def _yaml(tree: Mapping[str, Any]) -> str:
    """Return settings as YAML."""
    import yaml

    # libyaml's dumper is three times as fast; PyYAML without libyaml does not have it
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(tree, Dumper=dumper, sort_keys=False))
