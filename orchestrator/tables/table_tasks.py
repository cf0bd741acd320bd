"""Runs of a table as Ray tasks; the driver writes the record and the page."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from orchestrator.execution.cluster import await_machines, connect_ray
from orchestrator.execution.devices import pick_device, work_in
from orchestrator.execution.execute import rebuild
from orchestrator.execution.progress import (
    LINE_SECONDS,
    ProgressMeter,
    Ticker,
    published,
    read_published,
)
from orchestrator.options import local_folder
from orchestrator.search.schedulers import check_resources
from orchestrator.store.stage_store import StageStore
from orchestrator.tables.reproduce import label, run_cell
from orchestrator.tables.schema import Recipe
from orchestrator.tables.table_order import StartOrder
from orchestrator.tables.table_record import CellRecord
from trainables.threads import choose_threads

PROGRESS = "reproduce"  # under which runs of a table publish their progress


def run_task(
    cell_key: dict[str, Any], tree: dict[str, Any], storage: str, gpus: float, origin: str = ""
) -> CellRecord:
    """Run one recipe with one thread on the CPU or GPU of this task.

    Args:
        cell_key: Row, factor and seed of the run in the table.
        tree: The recipe as plain values.
        storage: Storage of stage results that all machines can access.
        gpus: Fraction of a GPU that the task holds, 0 for none.
        origin: Working folder of the driver, for relative paths in the recipe.
    """
    choose_threads(1)
    work_in(origin)
    run = Recipe(**cell_key, experiment=rebuild(tree))
    meter = ProgressMeter(run.experiment, label(run))
    with published(meter, PROGRESS):
        return run_cell(run, StageStore(storage), pick_device(gpus), meter)


class ClusterRunner:
    """Runner that executes runs of a table on a Ray cluster, for `reproduce`.

    A run holds one CPU, and a fraction of a GPU if the cluster has GPUs. A run that diverges, or
    whose process or machine dies in three retries, gives a failed cell. Any other error is raised
    and cancels the other runs.

    Args:
        at_once: Number of parallel runs; ``None``: one per GPU, or one per CPU without GPUs.
        address: Address of a Ray cluster; ``None`` joins a running cluster that Ray finds, or else
            starts one.
        say: Called with a line about the machines that are missing.
    """

    def __init__(
        self, at_once: int | None, address: str | None, say: Callable[[str], None]
    ) -> None:
        self._at_once, self._address, self._say = at_once, address, say

    def __call__(self, runs: Sequence[Recipe], storage: str) -> Iterator[CellRecord]:
        """Yield the cell of each run, in the order of completion.

        Raises:
            ConfigError: No cluster answers, or the requested number of parallel runs does not fit.
        """
        import ray

        resources = connect_ray(self._address)
        if self._address is None:
            await_machines(self._say)
            resources = {name: float(value) for name, value in ray.cluster_resources().items()}
        at_once, gpus = share(self._at_once, resources)
        task = ray.remote(num_cpus=1, num_gpus=gpus)(run_task)
        # tasks have other working directories
        storage = storage if "://" in storage else str(local_folder(storage))
        order = StartOrder(runs)
        running: dict[Any, int] = {}
        try:
            while True:
                while len(running) < at_once and (position := order.next()) is not None:
                    run = runs[position]
                    cell_key = {"row": run.row, "factor": run.factor, "seed": run.seed}
                    tree = run.experiment.model_dump(mode="json")
                    running[task.remote(cell_key, tree, storage, gpus, os.getcwd())] = position
                if not running:
                    return
                with Ticker(self._tell, LINE_SECONDS):
                    (ended, *_), _ = ray.wait(list(running), num_returns=1)
                position = running.pop(ended)
                cell = _result(ended, runs[position])
                order.finished(position, trained=cell.error is None)
                yield cell
        finally:
            for left in running:
                ray.cancel(left, force=True)

    def _tell(self) -> None:
        """Say what runs."""
        lines = "; ".join(progress.text() for progress in read_published(PROGRESS))
        self._say(f"running: {lines or 'nothing tells its progress yet'}")


def share(at_once: int | None, resources: dict[str, float]) -> tuple[int, float]:
    """Return the number of parallel runs, and the fraction of a GPU that each run holds.

    Raises:
        ConfigError: The requested number of runs does not fit.

    Example:
        >>> share(None, {"CPU": 8.0}), share(None, {"CPU": 8.0, "GPU": 2.0})
        ((8, 0.0), (2, 1.0))
        >>> share(3, {"CPU": 8.0, "GPU": 2.0})  # two on one GPU, one on the other
        (3, 0.5)
    """
    whole_gpus = math.floor(resources.get("GPU", 0.0))
    wanted = at_once or whole_gpus or max(1, math.floor(resources.get("CPU", 0.0)))
    gpus = 1 / math.ceil(wanted / whole_gpus) if whole_gpus else 0.0
    check_resources(1.0, gpus, wanted, resources)
    return wanted, gpus


def _result(task: Any, run: Recipe) -> CellRecord:
    """Return a task's cell; a worker that died on every attempt gives a failed cell."""
    import ray

    try:
        cell: CellRecord = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # without Ray's copy of the task's traceback in its text
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        text = " ".join(str(error).split())
    except ray.exceptions.OutOfMemoryError:
        text = "the process was killed because the machine ran out of memory"
    else:
        return cell
    return CellRecord(row=run.row, factor=run.factor, seed=run.seed, error=text)
