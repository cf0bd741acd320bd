"""Time of a trial's logging calls, compared with MLflow's client, and values lost by a kill.

Goals: the logging calls of a trial of ten seconds take at most 1 % of it, and 0.3 ms per value,
with MLflow on sqlite and behind its HTTP server on loopback. All values arrive; of a killed
process, at most the values of its last two seconds are lost. The baseline logs each value by
``MlflowClient.log_metric`` and takes at least ten times as long.

    python -m benchmarks.tracking [--trials 10] [--repeats 3]

The time of a call is wall time; ``cpu_per_value`` is the CPU time of this process and of the
sending process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from mlflow import MlflowClient

from benchmarks import print_row
from orchestrator.records import TrialRecord
from orchestrator.tracking.mlflow_client import DEFAULTS
from orchestrator.tracking.tracker import SWEEP, Tracker

EXPERIMENT = "tracking benchmark"
EPOCHS, METRICS = 20, 10
VALUES = EPOCHS * METRICS
MOST_PER_VALUE = 0.3e-3
MOST_PER_TRIAL = 0.01 * 10.0
MOST_LOST_SECONDS = 2.0
DIRECT_VALUES = 60  # the baseline needs up to 50 ms for each
KILL_AFTER = 3.0
START_SECONDS = 300.0

LOGGER = """
import sys, time
from pathlib import Path
from orchestrator.tracking.tracker import SWEEP, Tracker
uri, folder = sys.argv[1], Path(sys.argv[2])
tracker = Tracker.open(uri, folder, "tracking benchmark", folder / "killed", patience=0.0)
tracker.start_sweep("killed", params={}, tags={})
count = 0
while True:
    tracker.log_history(SWEEP, [{"epoch": count, "value": float(count)}])
    print(count, time.time(), flush=True)
    count += 1
    time.sleep(0.002)
"""


def rows() -> list[dict[str, float]]:
    """Return a trial's history: one row per epoch."""
    return [
        {"epoch": float(epoch), **{f"m{n}": epoch + n / METRICS for n in range(METRICS)}}
        for epoch in range(EPOCHS)
    ]


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run an MLflow server on loopback and yield its address; end its process group after use.

    Raises:
        RuntimeError: The server does not answer within `START_SECONDS`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _await_server(process, uri)
            yield uri
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _await_server(process: subprocess.Popen[bytes], uri: str) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{uri}/health", timeout=5)
            return
        time.sleep(0.5)
    raise RuntimeError(f"the MLflow server at {uri} did not start; see its log")


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its child, the sending process."""
    children = [child.cpu_times() for child in psutil.Process().children()]
    return time.process_time() + float(sum(times.user + times.system for times in children))


def ours(uri: str, folder: Path, trials: int, name: str) -> tuple[list[float], float, bool]:
    """Log trials through the tracker.

    Returns:
        Seconds of the calls of each trial, CPU seconds of all trials, and whether every value
        arrived.
    """
    tracker = Tracker.open(uri, folder, EXPERIMENT, folder / name, patience=0.0)
    tracker.start_sweep(name, params={}, tags={})
    tracker.flush(START_SECONDS)  # connects now, so that connecting is not timed
    cpu, costs = cpu_seconds(), []
    for number in range(trials):
        run, history = f"t{number}", rows()
        start = time.perf_counter()
        tracker.start_trial(run, number, params={"seed": number})
        tracker.log_history(run, history)
        tracker.finish_trial(
            TrialRecord(trial_id=run, number=number, state="COMPLETE", params={}, seconds=1.0)
        )
        costs.append(time.perf_counter() - start)
    arrived = tracker.flush(START_SECONDS)
    cpu = cpu_seconds() - cpu
    client = MlflowClient(uri)
    for run in (f"t{number}" for number in range(trials)):
        found = client.get_metric_history(tracker.run_id(run), "m3")
        got = {metric.step: metric.value for metric in found}
        arrived &= got == {int(row["epoch"]): row["m3"] for row in rows()}
    return costs, cpu, tracker.close() and arrived


def direct(uri: str) -> list[float]:
    """Log values one by one with MLflow's client and return the seconds of each call."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    run = client.create_run(found.experiment_id).info.run_id
    costs = []
    for step in range(DIRECT_VALUES):
        start = time.perf_counter()
        client.log_metric(run, "m0", float(step), step=step)
        costs.append(time.perf_counter() - start)
    client.set_terminated(run)
    return costs


def lost_by_a_kill(uri: str, folder: Path) -> tuple[float, int]:
    """Kill a process while it logs, then send the rest of its queue.

    Returns:
        Seconds between the kill and the logging of the last value that arrived, and the number of
        missing values that were logged earlier.
    """
    command = [sys.executable, "-c", LOGGER, uri, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # the process has started to log
    time.sleep(KILL_AFTER)
    killed = time.time()
    process.kill()
    lines = [line.split() for line in process.stdout.read().splitlines() if line.count(" ") == 1]
    process.wait()
    times = {int(count): float(at) for count, at in lines}
    tracker = Tracker.open(uri, folder, EXPERIMENT, folder / "killed", patience=0.0)
    tracker.start_sweep("killed", params={}, tags={})
    tracker.flush(START_SECONDS)
    history = MlflowClient(uri).get_metric_history(tracker.run_id(SWEEP), "value")
    tracker.close()
    steps = {metric.step for metric in history}
    last = max(step for step in steps if step in times)
    return max(0.0, killed - times[last]), sum(step not in steps for step in range(last))


def measure(name: str, uri: str, folder: Path, trials: int, repeats: int) -> bool:
    """Measure with one kind of tracking address and print its rows."""
    per_trial, per_value, baseline, cpu, whole = [], [], [], 0.0, True
    for repeat in range(repeats):
        costs, spent, arrived = ours(uri, folder, trials, f"repeat{repeat}")
        per_trial.append(statistics.median(costs))
        per_value.append(statistics.median(costs) / VALUES)
        baseline.append(statistics.median(direct(uri)))
        cpu, whole = spent / (trials * VALUES), whole and arrived
    times = {"ours": per_value, "log_metric": baseline, "the limit": [MOST_PER_VALUE]}
    case = f"tracking/{name}, a value"
    passed = print_row(case, "log_metric", times, correct=whole, cpu_per_value=f"{cpu:.2g}")
    passed &= print_row(case, "the limit", times, correct=whole)
    times = {"ours": per_trial, "1 % of a trial": [MOST_PER_TRIAL]}
    passed &= print_row(f"tracking/{name}, a trial", "1 % of a trial", times, correct=whole)
    lost = [lost_by_a_kill(uri, folder)]
    times = {"ours": [max(seconds, 1e-3) for seconds, _ in lost], "the limit": [MOST_LOST_SECONDS]}
    whole = all(missing == 0 for _, missing in lost)
    return passed & print_row(f"tracking/{name}, lost by a kill", "the limit", times, correct=whole)


def main() -> int:
    """Measure, print rows, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "here").mkdir()
        (folder / "there").mkdir()
        database = f"sqlite:///{folder}/here/mlflow.db"
        passed = measure("sqlite", database, folder / "here", options.trials, options.repeats)
        with server(folder / "there") as uri:
            passed &= measure("HTTP", uri, folder / "there", options.trials, options.repeats)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
