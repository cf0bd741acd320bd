"""Small sweep in a subprocess, ways to end the process early, and the trials of its study."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from orchestrator.execution.ctrl_c import INTERRUPTED
from orchestrator.search.sweep_study import superseded
from tests.helpers import ROOT

TRIALS = 6
EPOCHS = 5
PATIENCE = 240.0  # seconds for one run of the command on a loaded machine
COMMAND = (
    sys.executable, "orchestrator/sweep.py", "--name", "killed", "--trials", str(TRIALS),
    "--scheduler", "asha", "--finalists", "1", "--num-seeds", "1", "--no-promote",
    "--set", f"classify.training.epochs={EPOCHS}", "--set", "update.training.epochs=2",
    "--set", "score.threshold={known_recall: {keep: 0.8}}",
)  # fmt: skip


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the driver and all processes that the driver or its Ray started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(process.pid)
        return [driver, *driver.children(recursive=True)]
    return []


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the driver by SIGKILL, then all processes that it started."""
    members = family(process)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait(30)
    psutil.wait_procs(members, timeout=30)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send SIGINT to the process group, as Ctrl-C does, and wait until the driver ends."""
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == INTERRUPTED


ENDINGS = (kill, interrupt, kill)


@contextlib.contextmanager
def sweep(storage: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        environment.pop(name, None)
    with (storage / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [*COMMAND, *more, "--storage", str(storage)],
            cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            kill(process)


def trials(storage: Path) -> list[FrozenTrial]:
    """Return all trials of the study, including those that were repeated under another number."""
    path = storage / "sweeps" / "killed" / "study.journal"
    if not path.is_file():
        return []
    try:  # by Optuna, because our reader would repair the line that the driver is writing
        backend = JournalStorage(JournalFileBackend(str(path)))
        found = optuna.load_study(study_name=None, storage=backend).get_trials(deepcopy=False)
    except (KeyError, ValueError):  # the study or its last line is not written yet
        return []
    return [t for t in found if t.state is not TrialState.WAITING]


def counted(storage: Path) -> list[FrozenTrial]:
    found = trials(storage)
    lost = superseded(found)
    return [trial for trial in found if trial.number not in lost]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Wait until the condition holds; ``False`` if the process ends before."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.2)
    raise AssertionError(f"the condition did not hold within {PATIENCE:g} s")
