"""A stage trained by several workers: a Ray Train group that belongs to the store, not to a trial.

A trial that needs such a stage asks a detached actor, the group's owner, named by the result's
key, and waits for the store. Stopping or killing a trial leaves the group alone. When nobody has
asked for a while the group ends after its epoch and gives its workers back; its checkpoint stays,
so that the next one who asks goes on from there.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from orchestrator.cluster import WORKER_CPUS
from orchestrator.store import Computed, StageStore, Stored
from trainables.context import Context, Report
from trainables.experiment import Experiment
from trainables.pipeline import Step, plan, run_step
from trainables.settings import build

logger = logging.getLogger(__name__)

NAMESPACE = "longtail"
POLL_SECONDS = 0.5
ABANDONED_SECONDS = 15.0  # thirty missed polls: a loaded host may be slow to ask
ATTEMPTS = 3  # of a group whose workers or hosts die; an error of the training is final
QUIET = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


class GroupSpec(BaseModel):
    """What a group computes; plain values, so that it travels cheaply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: dict[str, Any]
    stage: str
    key: str
    storage: str
    workers: int
    gpu: bool = False


class Polled(NamedTuple):
    """What an owner says: reports that are new to the asker, an error, and whether it leaves."""

    reports: list[dict[str, float]]
    error: str | None
    leaving: bool


class GroupFailedError(RuntimeError):
    """The training of a stage by several workers failed; the message is the first worker's."""


class AbandonedError(RuntimeError):
    """Nobody waits for this group any more."""


def trains(step: Step) -> bool:
    """Say whether a step trains a trunk, which is worth several workers.

    Example:
        >>> [s.stage for s in plan(Experiment()) if trains(s)]
        ['classify']
    """
    settings: Any = step.settings
    if step.stage == "pretrain":
        return bool(settings.method.trains) and settings.training.epochs > 0
    if step.stage == "update":
        return bool(settings.mode == "full") and settings.training.epochs > 0
    return step.stage == "classify" and settings.training.epochs > 0


class GroupRunner:
    """Runs the training steps of one recipe in worker groups.

    Args:
        experiment: The recipe.
        store: Where results go.
        workers: Workers per group.
        gpu: Give each worker a GPU.
    """

    def __init__(
        self, experiment: Experiment, store: StageStore, *, workers: int, gpu: bool = False
    ) -> None:
        self.experiment, self.store = experiment, store
        self.workers, self.gpu = workers, gpu

    def __call__(self, step: Step, key: str, report: Report) -> tuple[Stored, int]:
        """Wait for a step's result, computed by a group unless it is stored; pass on its reports.

        Returns:
            The result, and how many of its reports were passed on.

        Raises:
            GroupFailedError: The training failed, or its workers died too often.
        """
        import ray

        found = self.store.find(step.stage, key, step.outputs)
        if found is not None:
            return found, 0
        spec = GroupSpec(
            experiment=self.experiment.model_dump(mode="json"),
            stage=step.stage,
            key=key,
            storage=self.store.place.uri,
            workers=self.workers,
            gpu=self.gpu,
        )
        seen, deaths = 0, 0
        while True:
            try:
                owner = owner_of(spec)
                polled = ray.get(owner.poll.remote(seen))
            except ray.exceptions.RayActorError:  # it left, or its host died
                deaths += 1
                if deaths > 10 * ATTEMPTS:
                    raise GroupFailedError(f"{step.stage}: the group's host keeps dying") from None
                polled = Polled([], None, True)
            found = self.store.find(step.stage, key, step.outputs)
            rows = polled.reports if found is None else found.history[seen:]
            for row in rows:
                report({k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))
            seen += len(rows)
            if found is not None:
                return found._replace(reused=not _claim(spec)), seen
            if polled.error is not None:
                raise GroupFailedError(polled.error)
            time.sleep(POLL_SECONDS)


def owner_of(spec: GroupSpec) -> Any:
    """Return the owner of a result's group, which the first asker starts."""
    import ray

    address = ray.get_runtime_context().gcs_address
    # Ray's own cleaner looks for a cluster by itself and gives up when it sees two.
    environment = {**QUIET, "RAY_ADDRESS": address}
    return (
        ray.remote(GroupOwner)
        .options(
            name=_name(spec),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=64,
            runtime_env={"env_vars": environment},
        )
        .remote(spec.model_dump())
    )


def _name(spec: GroupSpec) -> str:
    return f"group-{spec.stage}-{spec.key[:24]}"


def _claim(spec: GroupSpec) -> bool:
    """Say whether this asker is the one that the computation is counted for."""
    import ray

    try:
        owner = ray.get_actor(_name(spec), namespace=NAMESPACE)
        return bool(ray.get(owner.claim.remote()))
    except (ValueError, ray.exceptions.RayActorError):  # another one computed it, long ago
        return False


class GroupOwner:
    """Holds the computation of one stage result; lives in a detached actor of its own.

    Args:
        spec: A `GroupSpec` as plain values.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = GroupSpec.model_validate(spec)
        self.reports: list[dict[str, float]] = []
        self.result: Computed | None = None
        self.error: str | None = None
        self.leaving = self.claimed = False
        self.asked = time.monotonic()
        threading.Thread(target=self._live, name="group", daemon=True).start()

    def poll(self, seen: int) -> Polled:
        """Note that somebody waits, and say what is new."""
        self.asked = time.monotonic()
        return Polled(self.reports[seen:], self.error, self.leaving)

    def claim(self) -> bool:
        """Return True to the first who asks."""
        first, self.claimed = not self.claimed, True
        return first

    def report(self, number: int, row: dict[str, float]) -> bool:
        """Take a worker's report (a group that went on makes old ones again); go on or not."""
        if number == len(self.reports):
            self.reports.append(row)
        return not self.abandoned()

    def accept(self, result: Computed) -> None:
        """Take the first worker's result; its reports came before."""
        self.result = result

    def fail(self, error: str) -> None:
        """Take a worker's error; the first one says what happened, the others follow from it."""
        self.error = self.error or error

    def abandoned(self) -> bool:
        """Say whether nobody waits any more; from then on the group is leaving."""
        if time.monotonic() - self.asked > ABANDONED_SECONDS:
            self.leaving = True
        return self.leaving

    def _live(self) -> None:
        """Compute, then stay until all who wait know how it ended."""
        import ray

        spec = self.spec
        step = next(s for s in plan(build(Experiment, spec.experiment)) if s.stage == spec.stage)
        try:
            StageStore(spec.storage).get_or_compute(
                spec.stage, spec.key, step.outputs, self._compute
            )
        except AbandonedError:
            logger.info("%s: nobody waits for it any more", _name(spec))
        except Exception as error:
            # it is raised again in every trial that waits
            logger.exception("%s failed", _name(spec))
            self.error = self.error or f"{type(error).__name__}: {error}"
        while not self.abandoned():
            time.sleep(POLL_SECONDS)
        ray.kill(ray.get_runtime_context().current_actor)

    def _compute(self, folder: Path) -> Computed:
        """Run groups until one ends well, the training itself fails, or nobody waits."""
        import ray

        for attempt in range(1, ATTEMPTS + 1):
            self._wait_for_workers()
            try:
                self._fit()
            except ray.train.TrainingFailedError as error:
                if self.leaving:
                    raise AbandonedError from None
                if self.error is not None or attempt == ATTEMPTS:
                    raise GroupFailedError(self.error or str(error)) from None
                logger.warning("%s died (%d of %d)", _name(self.spec), attempt, ATTEMPTS)
            if self.result is not None:
                break
        if self.result is None:
            raise GroupFailedError(f"{_name(self.spec)} ended without a result")
        return self.result._replace(history=self.reports)

    def _wait_for_workers(self) -> None:
        """Start no processes for a group that would wait: Ray Train's cost before its workers."""
        import ray

        needed = self.spec.workers * WORKER_CPUS
        while ray.available_resources().get("CPU", 0.0) < needed:
            if self.abandoned():
                raise AbandonedError
            time.sleep(2 * POLL_SECONDS)

    def _fit(self) -> None:
        """Run one group of workers to its end."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        spec = self.spec
        resources = {"CPU": WORKER_CPUS, **({"GPU": 1.0} if spec.gpu else {})}
        folder = f"{spec.storage.rstrip('/')}/scratch/ray-train"
        trainer = TorchTrainer(
            work,
            train_loop_config={"spec": spec.model_dump(), "owner": _name(spec)},
            torch_config=TorchConfig(backend="nccl" if spec.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=spec.workers, use_gpu=spec.gpu, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=_name(spec),
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
        finally:
            shutil.rmtree(f"{folder}/{_name(spec)}", ignore_errors=True)


def work(config: Mapping[str, Any]) -> None:
    """Run a stage as one worker of a group; inputs come from the store."""
    import ray
    import ray.train.torch

    spec = GroupSpec.model_validate(config["spec"])
    owner = ray.get_actor(config["owner"], namespace=NAMESPACE)
    session = ray.train.get_context()
    rank, world = session.get_world_rank(), session.get_world_size()
    try:
        result = _run(spec, owner, rank, world)
    except Exception as error:
        # what follows in the other workers (a lost peer) is not the cause
        if not isinstance(error, AbandonedError) and not _lost_peer(error):
            ray.get(owner.fail.remote(f"{type(error).__name__}: {error}"))
        raise
    if rank == 0:
        ray.get(owner.accept.remote(result))


def _lost_peer(error: Exception) -> bool:
    """Say whether an error only means that another worker is gone."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistBackendError" in names or any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset", "gloo")
    )


def _run(spec: GroupSpec, owner: Any, rank: int, world: int) -> Computed:
    import ray
    import ray.train.torch

    from orchestrator.continuation import course_of
    from orchestrator.execute import StoreExecutor, cached_views, limit_threads, view_digests

    limit_threads(1 if not spec.gpu else max(1, (os.cpu_count() or 1) // world))
    experiment = build(Experiment, spec.experiment)
    store = StageStore(spec.storage)
    count = 0

    def report(metrics: Mapping[str, float], epoch: int) -> None:
        nonlocal count
        row = {"epoch": float(epoch), **metrics}
        if not ray.get(owner.report.remote(count, row)):
            raise AbandonedError
        count += 1

    views = cached_views(experiment.data)
    artifacts: dict[str, Any] = views._asdict()
    upstream = StoreExecutor(store, view_digests(views))
    for step in plan(experiment):
        inputs = {name: artifacts[name] for name in step.inputs}
        if step.stage == spec.stage:
            break
        artifacts.update(upstream(step, inputs, Context(seed=experiment.seed)))
    folder = store.scratch / spec.stage / spec.key
    folder.mkdir(parents=True, exist_ok=True)
    course = course_of(step, upstream.digests, experiment.seed)
    # beside the worker that reads and writes checkpoints: the owner may be on another host
    continued = course.resume(store.place, folder) if rank == 0 else 0
    context = Context(
        device=ray.train.torch.get_device(),
        seed=experiment.seed,
        report=report,
        folder=folder if rank == 0 else None,
        rank=rank,
        world_size=world,
    )
    result = run_step(step, inputs, context)
    if rank == 0:
        course.keep(store.place, folder)
    return Computed(result, [], continued)
