"""Apply spooled entries to MLflow, so that the same entry may arrive twice without harm."""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SWEEP = "sweep"
USED_BY = "orchestrator.used_by"  # tag of a stage's run
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED", "RUNNING": "RUNNING"}
METRICS_PER_CALL, PARAMS_PER_CALL, TEXT_LIMIT = 1000, 100, 5000
_FORBIDDEN = re.compile(r"[^\w\-. /:]")


def stage_run(key: str) -> str:
    """Return the name by which a stage's run is addressed.

    Example:
        >>> stage_run("ab12")
        'stage/ab12'
    """
    return f"stage/{key}"


def identity(sweep: str, run: str) -> dict[str, str]:
    """Return the tags that find a run again: the same for everyone who asks.

    A stage's run belongs to all sweeps of the experiment, the others to one sweep.

    Example:
        >>> identity("july", "t1")
        {'orchestrator.kind': 'trial', 'orchestrator.sweep': 'july', 'orchestrator.trial_id': 't1'}
    """
    if run == SWEEP:
        return {"orchestrator.kind": "sweep", "orchestrator.sweep": sweep}
    if run.startswith("stage/"):
        return {"orchestrator.kind": "stage", "orchestrator.stage_key": run.removeprefix("stage/")}
    return {
        "orchestrator.kind": "trial",
        "orchestrator.sweep": sweep,
        "orchestrator.trial_id": run,
    }


class MlflowRuns:
    """The runs of one MLflow experiment, addressed by their identity tags.

    Args:
        client: An ``MlflowClient``.
        experiment_id: The MLflow experiment all runs are in.
    """

    def __init__(self, client: Any, experiment_id: str) -> None:
        self._client = client
        self._experiment = experiment_id
        self._ids: dict[tuple[str, str], str] = {}
        self._found: list[tuple[str, str, str]] = []  # since `take_found`
        self._used_by: dict[str, set[str]] = {}
        self._unsaid: set[str] = set()  # stages whose users changed since `settle`

    def run_id(self, sweep: str, run: str) -> str | None:
        """Return the id of a run that this object has found or created."""
        return self._ids.get((sweep, run))

    def take_found(self) -> list[tuple[str, str, str]]:
        """Return (sweep, run, id) of the runs that were found or created since the last call."""
        found, self._found = self._found, []
        return found

    def answers(self) -> bool:
        """Whether the tracker answers a plain question now."""
        try:
            self._client.get_experiment(self._experiment)
        except Exception:  # whatever it raised, the answer is no
            return False
        return True

    def apply(self, entry: Mapping[str, Any]) -> None:
        """Carry out one entry; what it did to stages' runs arrives with `settle`.

        Raises:
            MlflowException: The tracker refused or did not answer.
        """
        action = {
            "start": self._start,
            "metrics": self._metrics,
            "finish": self._finish,
            "stage": self._stage,
            "files": self._files,
            "reconcile": self._reconcile,
        }.get(entry["op"])
        if action is not None:
            action(entry)

    def _find(self, sweep: str, run: str) -> Any | None:
        """Return the run with these identity tags, or ``None``."""
        wanted = (f"tags.`{k}` = '{_quoted(v)}'" for k, v in identity(sweep, run).items())
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
    ) -> tuple[str, str]:
        """Adopt or create a run and return its id and status; log parameters it lacks."""
        found = self._find(sweep, run)
        tags = {**{k: _text(v) for k, v in tags.items()}, **identity(sweep, run)}
        if found is None:
            links = {}
            if run != SWEEP:
                links["mlflow.parentRunId"] = self._known(sweep, SWEEP, start)
            found = self._client.create_run(
                self._experiment, start_time=start, tags={**tags, **links}, run_name=name
            )
            tags = {}
        run_id = self._remember(sweep, run, str(found.info.run_id))
        logged = found.data.params
        changed = {k: v for k, v in params.items() if logged.get(k, _text(v)) != _text(v)}
        tags |= {f"orchestrator.changed.{_name(k)}": _text(v) for k, v in changed.items()}
        self._log_params(run_id, {k: v for k, v in params.items() if k not in logged}, tags)
        return run_id, str(found.info.status)

    def _known(self, sweep: str, run: str, time: int) -> str:
        """Return a run's id; a run whose start never arrived is created empty."""
        if (sweep, run) not in self._ids:
            found = self._find(sweep, run)
            if found is None:
                self._ensure(sweep, run, name=run, start=time, tags={}, params={})
            else:
                self._remember(sweep, run, str(found.info.run_id))
        return self._ids[sweep, run]

    def _remember(self, sweep: str, run: str, run_id: str) -> str:
        """Keep the id of a run and return it."""
        self._ids[sweep, run] = run_id
        self._found.append((sweep, run, run_id))
        return run_id

    def _log_params(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Send parameters and tags in calls that the server accepts."""
        from mlflow.entities import Param, RunTag

        all_tags = [RunTag(k, v) for k, v in tags.items()]
        all_params = [Param(_name(k), _text(v)) for k, v in params.items()]
        for start in range(0, max(len(all_params), len(all_tags)), PARAMS_PER_CALL):
            part = slice(start, start + PARAMS_PER_CALL)
            self._client.log_batch(run_id, params=all_params[part], tags=all_tags[part])

    def _log_rows(
        self,
        run_id: str,
        rows: Iterable[tuple[int, int, Mapping[str, float]]],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send metrics, given as (time in ms, step, values), in calls that the server accepts.

        A call costs as much as a hundred values, so tags (fewer than a call takes) go with them.
        """
        from mlflow.entities import Metric, RunTag

        metrics = [
            Metric(_name(key), float(value), time, step)
            for time, step, values in rows
            for key, value in values.items()
        ]
        sent = [RunTag(k, v) for k, v in (tags or {}).items()]
        room = METRICS_PER_CALL - len(sent)
        for start in range(0, max(len(metrics), len(sent)), room):
            self._client.log_batch(run_id, metrics=metrics[start : start + room], tags=sent)
            sent = []

    def _start(self, entry: Mapping[str, Any]) -> None:
        """Create or adopt a run; an adopted one that had ended runs again."""
        sweep, run = entry["sweep"], entry["run"]
        run_id, status = self._ensure(
            sweep,
            run,
            name=entry["name"],
            start=entry["time"],
            tags=entry["tags"],
            params=entry["params"],
        )
        if status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        for name, content in entry["texts"].items():
            text = content if isinstance(content, str) else _yaml(content)
            self._client.log_text(run_id, text, name)

    def _metrics(self, entry: Mapping[str, Any]) -> None:
        """Log rows of metrics with the times at which they were spooled."""
        rows = [(time, step, values) for time, step, values in entry["rows"]]
        self._log_rows(self._known(entry["sweep"], entry["run"], entry["time"]), rows)

    def _finish(self, entry: Mapping[str, Any]) -> None:
        """Log final metrics, link the stages used, and end the run."""
        sweep, time = entry["sweep"], entry["time"]
        run_id = self._known(sweep, entry["run"], time)
        links = {
            f"orchestrator.stage.{stage}": self._known(sweep, stage_run(key), time)
            for stage, key in entry["stages"].items()
        }
        for stage_id in sorted(set(links.values())):
            self._mark_used(stage_id, entry["run"])
        tags = {**{k: _text(v) for k, v in entry["tags"].items()}, **links}
        self._log_rows(run_id, [(time, 0, entry["metrics"])], tags)
        status = STATUS.get(entry["status"], entry["status"])
        self._client.set_terminated(run_id, status, end_time=time)

    def _mark_used(self, stage_id: str, trial: str) -> None:
        """Add a trial to the users of a stage's result."""
        if stage_id not in self._used_by:
            text = self._client.get_run(stage_id).data.tags.get(USED_BY, "")
            self._used_by[stage_id] = {name for name in text.split(" ") if name}
        if trial not in self._used_by[stage_id]:
            self._used_by[stage_id].add(trial)
            self._unsaid.add(stage_id)

    def settle(self) -> None:
        """Write the users of stages' results, once per stage however many trials there were.

        Raises:
            MlflowException: The tracker refused or did not answer; the next call tries again.
        """
        for stage_id in sorted(self._unsaid):
            names = sorted(self._used_by[stage_id])
            tags = {USED_BY: _text(" ".join(names)), "orchestrator.uses": str(len(names))}
            self._log_params(stage_id, {}, tags)
            self._unsaid.discard(stage_id)

    def _stage(self, entry: Mapping[str, Any]) -> None:
        """Record a computed stage once, whoever of its users comes first."""
        use, end = entry["use"], entry["time"]
        start = end - int(1000 * use["seconds"])
        run_id, status = self._ensure(
            entry["sweep"],
            stage_run(use["key"]),
            name=f"{use['stage']} {use['key'][:8]}",
            start=start,
            tags={"orchestrator.stage": use["stage"]},
            params=entry["params"],
        )
        if status != "RUNNING":
            return
        count = len(use["history"])
        rows = []
        for position, row in enumerate(use["history"]):
            time = start + (end - start) * (position + 1) // count
            step = int(row.get("epoch", position))
            rows.append((time, step, {k: v for k, v in row.items() if k != "epoch"}))
        self._log_rows(run_id, [*rows, (end, 0, {"stage/seconds": use["seconds"]})])
        self._client.set_terminated(run_id, "FINISHED", end_time=end)

    def _files(self, entry: Mapping[str, Any]) -> None:
        """Send a folder as artifacts; remove it when it was made for the spool."""
        folder = Path(entry["folder"])
        if not folder.is_dir():
            if not entry["temporary"]:
                logger.warning("tracking: %s is gone and could not be logged", folder)
            return
        run_id = self._known(entry["sweep"], entry["run"], entry["time"])
        self._client.log_artifacts(run_id, str(folder), entry["path"] or None)
        if entry["temporary"]:
            shutil.rmtree(folder, ignore_errors=True)

    def _reconcile(self, entry: Mapping[str, Any]) -> None:
        """End the children that a killed driver left RUNNING; a resumed trial starts them again."""
        text = (
            f"tags.`orchestrator.sweep` = '{_quoted(entry['sweep'])}' and "
            "tags.`orchestrator.kind` = 'trial' and attributes.status = 'RUNNING'"
        )
        for run in list(self._client.search_runs([self._experiment], text, max_results=50_000)):
            self._client.set_tag(run.info.run_id, "orchestrator.reconciled", "driver was killed")
            self._client.set_terminated(run.info.run_id, "KILLED", end_time=entry["time"])


def _yaml(tree: Mapping[str, Any]) -> str:
    """Return settings as YAML."""
    import yaml

    # libyaml's writes the same text three times as fast; a PyYAML built without it lacks the name
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(tree, Dumper=dumper, sort_keys=False))


def _quoted(value: str) -> str:
    """Escape a value for MLflow's filter language, which doubles single quotes."""
    return value.replace("'", "''")


def _name(key: str) -> str:
    """Replace characters that MLflow does not take in names."""
    return _FORBIDDEN.sub("_", key)[:250]


def _text(value: Any) -> str:
    """Return a parameter or tag as text of a length that every store takes."""
    if isinstance(value, float) and math.isfinite(value):
        value = repr(value)
    text = str(value)
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 4]} ..."
