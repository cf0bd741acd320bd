"""Ray: join a cluster or start one here, and how many trials fit."""

from __future__ import annotations

import gc
import importlib
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.options import SweepOptions

# Trials that wait for a worker group hold 1/100 of a CPU, and must find it beside its workers.
TRIAL_CPUS = 0.01
WORKER_CPUS = 0.9
# Ray tells that its token is on, as it should be, at every start.
TOKEN_LOG = "ray._private.authentication.authentication_token_setup"
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves it on the head
JOIN_SECONDS = 900.0  # set-up builds an environment on each machine
ANSWER_SECONDS = 10.0  # Ray itself tries for minutes and says why in its own log
GCS_PORT = 6379
TUNE_SETTINGS = {
    # they write three files per trial; the record, the study and MLflow hold all of it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # a sweep goes on from its study, not from Tune's snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Tune's actors have an environment of their own: a worker that waits without it is never used
    "RAY_prestart_worker_first_driver": "0",
}


def connect_ray(address: str | None, workers: int = 1) -> dict[str, float]:
    """Join the cluster at ``address``, or one that Ray knows of, or start one on this host.

    Args:
        address: ``None``: a running cluster, else a new one.
        workers: With more than one, a new cluster has a dashboard (on loopback): Ray Train's
            cleaner of abandoned groups asks it which of them live.

    Returns:
        The cluster's resources, e.g. ``{"CPU": 2.0}``.

    Raises:
        ConfigError: Nothing answers at the address.
    """
    check_address(address)
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger(TOKEN_LOG).setLevel(logging.ERROR)
    # Tune's log speaks of its own files, which are switched off; the record has every error.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if not ray.is_initialized():
        try:
            ray.init(
                address=address,
                include_dashboard=workers > 1,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.WARNING,
                configure_logging=True,
            )
        except ConnectionError:
            raise _no_cluster(address, "none is running here") from None
    return {name: float(value) for name, value in ray.cluster_resources().items()}


def check_address(address: str | None) -> None:
    """Refuse a ``host:port`` (or ``ray://host:port``) where nothing answers.

    Raises:
        ConfigError: Nothing answers, or it is no address.
    """
    if address is None or address in ("", "auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").partition(":")
    try:
        socket.create_connection((host, int(port or GCS_PORT)), ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str | None, reason: str) -> ConfigError:
    return ConfigError(
        f"--address: no Ray cluster answers at '{address}' ({reason}); give HOST:PORT of a head "
        "that `ray up` or `ray start --head` started, or leave it out to start one here"
    )


def await_machines(say: Callable[[str], None]) -> None:
    """Wait until the machines have joined that ``ray up`` was told to start; elsewhere don't wait.

    ``ray up`` returns when the head runs. A sweep counts machines once, at its start: one that is
    submitted at once would use the head alone to its end.

    Args:
        say: Told once what is waited for, and who did not come.
    """
    import psutil
    import ray

    expected = machines_of(BOOTSTRAP.expanduser())
    if expected == 0:
        return
    if any(child.name() == "gcs_server" for child in psutil.Process().children()):
        return  # this process started a Ray of its own: the cluster is down
    await_count(lambda: sum(node["Alive"] for node in ray.nodes()), expected, say)


def machines_of(file: Path) -> int:
    """Return how many machines a cluster's configuration starts at once; 0: there is none."""
    import yaml

    if not file.is_file():
        return 0
    kinds = yaml.safe_load(file.read_text(encoding="utf-8")).get("available_node_types", {})
    return 1 + sum(int(kind.get("min_workers", 0)) for kind in kinds.values())


def await_count(
    count: Callable[[], int],
    expected: int,
    say: Callable[[str], None],
    seconds: float = JOIN_SECONDS,
    poll_seconds: float = 1.0,
) -> None:
    """Wait until ``count`` reaches ``expected``; after ``seconds`` go on with what is there."""
    end, told = time.monotonic() + seconds, False
    while (there := count()) < expected:
        if time.monotonic() > end:
            say(f"{there} of {expected} machines joined; going on with them")
            return
        if not told:
            say(f"{there} of {expected} machines have joined; waiting for the others")
        told = True
        time.sleep(poll_seconds)


class Importing:
    """Imports modules in a thread, while Ray's processes come up and this one would wait.

    Ray itself is started by the main thread: its processes end with the thread that started them.

    Args:
        names: Modules, in order. Those that import parts of Ray come last: a start of Ray has
            imported its own by then, and two threads never meet half of a module.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="import", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            import_all(self._names)
        except BaseException as error:  # raised where it is waited for
            self._error = error

    def wait(self) -> None:
        """Return when all is imported.

        Raises:
            Exception: What an import raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error


def import_all(names: Iterable[str]) -> None:
    """Import modules without garbage collection: nothing in them is garbage, looking costs 10 %."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        if was_on:
            gc.enable()


def trial_resources(options: SweepOptions) -> dict[str, float]:
    """Return what a trial holds: almost nothing if worker groups train for it while it waits."""
    if options.workers > 1:
        return {"cpu": TRIAL_CPUS, "gpu": 0.0}
    return {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}


def concurrency(options: SweepOptions, resources: dict[str, float]) -> int:
    """Return how many trials run at a time: one per worker group, or as many as fit.

    Raises:
        ConfigError: Not even one trial fits, or more are asked for than fit, or no worker group
            fits beside the trials.
    """
    from orchestrator.schedulers import check_resources

    each, group = trial_resources(options), None
    if options.workers > 1:
        gpus = 1.0 if options.gpus_per_trial > 0 else 0.0
        group = {"CPU": options.workers * WORKER_CPUS, "GPU": options.workers * gpus}
        shares = [resources.get(kind, 0.0) / need for kind, need in group.items() if need]
        fit = math.floor(min(shares))
    else:
        fit = math.floor(resources.get("CPU", 0.0) / each["cpu"])
        if each["gpu"] > 0:
            fit = min(fit, math.floor(resources.get("GPU", 0.0) / each["gpu"]))
    wanted = options.concurrency or max(1, fit)
    check_resources(each["cpu"], each["gpu"], wanted, resources, group=group)
    return wanted
