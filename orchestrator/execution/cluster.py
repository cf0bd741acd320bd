"""Ray cluster: joining or starting one, waiting for its machines, and its number of trials."""

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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.execution.infrastructure import InfrastructureError, one_line
from trainables.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.options import SweepOptions

logger = logging.getLogger(__name__)

# A trial that waits for a worker group holds 0.01 CPU, a worker 0.9, so that both fit on one CPU.
TRIAL_CPUS = 0.01
WORKER_CPUS = 0.9
# This logger reports at every start that token authentication is on.
TOKEN_LOG = "ray._private.authentication.authentication_token_setup"
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` writes this file on the head node
JOIN_SECONDS = 900.0  # the setup commands build an environment on each machine
ANSWER_SECONDS = 10.0  # Ray itself retries for minutes and reports the reason in its log only
GCS_PORT = 6379
TUNE_SETTINGS = {
    # the loggers write three files per trial, which repeat the record, the study and MLflow
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # a sweep resumes from its study, not from Tune's snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Tune's actors have their own runtime environment, so prestarted workers would never be used
    "RAY_prestart_worker_first_driver": "0",
}
# A Ray that is started here serves no metrics: its servers would listen on all interfaces, without
# the token. Ray can't be told to leave the two ports out; an impossible one starts no server.
NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}


def connect_ray(address: str | None, workers: int = 1) -> dict[str, float]:
    """Join a Ray cluster, or start one on this host.

    Args:
        address: Address of the cluster; ``None`` joins a running cluster that Ray finds, or else
            starts one.
        workers: Workers per training. With more than one, a new cluster has a dashboard on
            loopback, because Ray Train asks the dashboard which worker groups are alive.

    Returns:
        The cluster's resources, e.g. ``{"CPU": 2.0}``.

    Raises:
        ConfigError: No cluster answers at the address.
        InfrastructureError: Ray did not start, because the machine is too busy for one.
    """
    check_address(address)
    for name, value in {**TUNE_SETTINGS, **NO_METRICS}.items():
        os.environ.setdefault(name, value)
    import ray

    logging.getLogger(TOKEN_LOG).setLevel(logging.ERROR)
    # Tune logs about its own files, which are off; the record has every error
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
        except Exception as error:  # Ray raises a bare one when its processes need more than 30 s
            ray.shutdown()
            raise InfrastructureError(
                f"Ray did not start ({one_line(error)}); the same command tries it again"
            ) from None
        protect_token()
        _shorten_reports()
    return {name: float(value) for name, value in ray.cluster_resources().items()}


@cache
def _shorten_reports() -> None:
    """Show the first line of what Ray's processes report; Ray's logs have the page below it.

    Ray has no setting for it. A version without this function shows all.
    """
    from ray._private import worker

    show = getattr(worker, "print_to_stdstream", None)
    if show is None:
        return

    def shortened(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        lines = [text.partition("\n")[0] for text in data["lines"]]
        show({**data, "lines": lines}, *args, **kwargs)

    worker.print_to_stdstream = shortened


def protect_token(path: Path | None = None) -> None:
    """Let nobody else read the token that Ray has made: whoever holds it can run code here.

    Args:
        path: File of the token; by default the one that Ray uses.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    token = path or (Path(named) if named else Path.home() / ".ray" / "auth_token")
    try:
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)
    except FileNotFoundError:
        return
    except OSError as error:  # a file of another user, for one
        logger.warning("%s can be read by others: %s", token, error.strerror)


def check_address(address: str | None) -> None:
    """Refuse an address, ``host:port`` or ``ray://host:port``, where no server answers.

    Raises:
        ConfigError: No server answers, or the text is not an address.
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
        "node that `ray up` or `ray start --head` started, or omit --address to start Ray here"
    )


def await_machines(say: Callable[[str], None]) -> None:
    """Wait until all machines of a ``ray up`` cluster have joined; return at once elsewhere.

    ``ray up`` returns as soon as the head node runs, and a sweep counts the machines once, at its
    start. Without waiting, a sweep that is submitted at once would use only the head node.

    Args:
        say: Called with a line about the machines that are missing.
    """
    import psutil
    import ray

    expected = machines_of(BOOTSTRAP.expanduser())
    if expected == 0:
        return
    if any(child.name() == "gcs_server" for child in psutil.Process().children()):
        return  # this process started Ray itself, so the cluster of `ray up` is down
    await_count(lambda: sum(node["Alive"] for node in ray.nodes()), expected, say)


def machines_of(file: Path) -> int:
    """Return the number of machines that a cluster's configuration starts; 0 without the file."""
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
    """Wait until ``count`` reaches ``expected``, at most ``seconds``."""
    end, told = time.monotonic() + seconds, False
    while (joined := count()) < expected:
        if time.monotonic() > end:
            say(f"{joined} of {expected} machines have joined; continuing without the others")
            return
        if not told:
            say(f"{joined} of {expected} machines have joined; waiting for the others")
        told = True
        time.sleep(poll_seconds)


class Importing:
    """Imports modules in a thread while the main thread starts Ray.

    The main thread starts Ray, because Ray's processes end with the thread that started them.

    Args:
        names: Modules, in order. Modules that import parts of Ray come last, when the start of Ray
            has imported those parts, so that no thread finds a partly imported module.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="import", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            import_all(self._names)
        except BaseException as error:  # `wait` raises the error in the main thread
            self._error = error

    def wait(self) -> None:
        """Wait until all modules are imported.

        Raises:
            Exception: The error that an import raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error


def import_all(names: Iterable[str]) -> None:
    """Import modules with garbage collection off, which saves 10 % of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            importlib.import_module(name)
    finally:
        if was_on:
            gc.enable()


def trial_resources(options: SweepOptions) -> dict[str, float]:
    """Return a trial's CPUs and GPUs; a trial that waits for worker groups holds almost none."""
    if options.train_workers > 1:
        return {"cpu": TRIAL_CPUS, "gpu": 0.0}
    return {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}


def concurrency(options: SweepOptions, resources: dict[str, float]) -> int:
    """Return the number of parallel trials: one per worker group, or as many as fit.

    Raises:
        ConfigError: No trial fits, or the requested number does not fit, or no worker group fits
            beside the trials.
    """
    from orchestrator.search.schedulers import check_resources

    each, group = trial_resources(options), None
    if options.train_workers > 1:
        gpus = 1.0 if options.gpus_per_trial > 0 else 0.0
        group = {"CPU": options.train_workers * WORKER_CPUS, "GPU": options.train_workers * gpus}
        shares = [resources.get(kind, 0.0) / need for kind, need in group.items() if need]
        fit = math.floor(min(shares))
    else:
        fit = math.floor(resources.get("CPU", 0.0) / each["cpu"])
        if each["gpu"] > 0:
            fit = min(fit, math.floor(resources.get("GPU", 0.0) / each["gpu"]))
    wanted = options.concurrency or max(1, fit)
    check_resources(each["cpu"], each["gpu"], wanted, resources, group=group)
    return wanted
