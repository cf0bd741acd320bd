"""Runs of a table as Ray tasks; the process that asks writes record and page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from orchestrator.ahead import train_ahead
from orchestrator.cluster import await_machines, connect_ray
from orchestrator.execute import limit_threads, pick_device, rebuild
from orchestrator.options import local_folder
from orchestrator.reproduce import CellRecord, run_cell, usual_fuse
from orchestrator.schedulers import check_resources
from orchestrator.store import StageStore
from orchestrator.table_order import StartOrder
from orchestrator.tables import Recipe


def run_task(
    place: dict[str, Any],
    tree: dict[str, Any],
    storage: str,
    gpus: float,
    together: Sequence[dict[str, Any]] = (),
) -> CellRecord:
    """Run one recipe with one thread on the CPU or GPU that this task was given.

    Args:
        place: Row, factor and seed in the table.
        tree: The recipe as plain values.
        storage: Storage of stage results that all machines reach.
        gpus: Share of a GPU that the task holds; 0: none.
        together: Recipes whose trunks are trained together first, as plain values.
    """
    limit_threads(1)
    store, device = StageStore(storage), pick_device(gpus)
    if together:
        train_ahead([rebuild(own) for own in together], store, device)
    return run_cell(Recipe(**place, experiment=rebuild(tree)), store, device)


class ClusterRunner:
    """A runner for `orchestrator.reproduce.reproduce`: runs of a table on a Ray cluster.

    A run holds one CPU, and its share of the cluster's GPUs if there are any. One that diverges, or
    whose process or machine dies three more times, is a failure of its row; any other error is
    raised and ends the runs that are going on.

    Args:
        at_once: Runs at a time; ``None``: one per GPU, or per CPU where there is no GPU.
        address: Ray cluster to join; ``None``: a running one that Ray knows of, else a local one.
        say: Told what is waited for.
        fuse: How many trunks that differ in their seed alone one run trains together; ``None``:
            those of all seeds on a GPU, each alone on a CPU.
    """

    def __init__(
        self,
        at_once: int | None,
        address: str | None,
        say: Callable[[str], None],
        fuse: int | None = None,
    ) -> None:
        self._at_once, self._address, self._say = at_once, address, say
        self._fuse = fuse

    def __call__(self, runs: Sequence[Recipe], storage: str) -> Iterator[CellRecord]:
        """Yield what each run gave, as they end.

        Raises:
            ConfigError: There is no such cluster, or so many runs at a time do not fit it.
        """
        import ray

        resources = connect_ray(self._address)
        if self._address is None:
            await_machines(self._say)
            resources = {name: float(value) for name, value in ray.cluster_resources().items()}
        at_once, gpus = share(self._at_once, resources)
        task = ray.remote(num_cpus=1, num_gpus=gpus)(run_task)
        # tasks run in other folders
        storage = storage if "://" in storage else str(local_folder(storage))
        order = StartOrder(runs, self._fuse or usual_fuse(runs, on_gpu=gpus > 0))
        going: dict[Any, int] = {}
        try:
            while True:
                while len(going) < at_once and (position := order.next()) is not None:
                    run = runs[position]
                    place = {"row": run.row, "factor": run.factor, "seed": run.seed}
                    tree = run.experiment.model_dump(mode="json")
                    fused = [runs[number].experiment for number in order.together(position)]
                    trees = [own.model_dump(mode="json") for own in fused]
                    going[task.remote(place, tree, storage, gpus, trees)] = position
                if not going:
                    return
                (ended, *_), _ = ray.wait(list(going), num_returns=1)
                position = going.pop(ended)
                cell = _result(ended, runs[position])
                order.finished(position, trained=cell.error is None)
                yield cell
        finally:
            for left in going:
                ray.cancel(left, force=True)


def share(at_once: int | None, resources: dict[str, float]) -> tuple[int, float]:
    """Return how many runs go on at a time, and how much of a GPU each holds.

    Raises:
        ConfigError: So many do not fit.

    Example:
        >>> share(None, {"CPU": 8.0}), share(None, {"CPU": 8.0, "GPU": 2.0})
        ((8, 0.0), (2, 1.0))
        >>> share(3, {"CPU": 8.0, "GPU": 2.0})  # two on one GPU, one on the other
        (3, 0.5)
    """
    there = math.floor(resources.get("GPU", 0.0))
    wanted = at_once or there or max(1, math.floor(resources.get("CPU", 0.0)))
    gpus = 1 / math.ceil(wanted / there) if there else 0.0
    check_resources(1.0, gpus, wanted, resources)
    return wanted, gpus


def _result(task: Any, run: Recipe) -> CellRecord:
    """Return what a task gave; a process that died, again and again, is a failure of its row."""
    import ray

    try:
        cell: CellRecord = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # without Ray's copy of the task's traceback in its text
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        text = " ".join(str(error).split())
    except ray.exceptions.OutOfMemoryError:
        text = "its process was killed: the machine ran out of memory"
    else:
        return cell
    return CellRecord(row=run.row, factor=run.factor, seed=run.seed, error=text)
