"""Actor that owns a worker group's computation, and the function that each worker runs."""

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

from orchestrator.execution.cluster import WORKER_CPUS
from orchestrator.execution.devices import work_in
from orchestrator.execution.store_executor import (
    StoreExecutor,
    cached_views,
    computed_by,
    view_digests,
)
from orchestrator.execution.training_states import states_of
from orchestrator.store.manifest import Computed
from orchestrator.store.stage_store import StageStore
from trainables.context import Context
from trainables.experiment import Experiment
from trainables.pipeline import plan, run_step
from trainables.settings import build
from trainables.threads import choose_threads

logger = logging.getLogger(__name__)

NAMESPACE = "longtail"
POLL_SECONDS = 0.5
ABANDONED_SECONDS = 15.0  # 30 missed polls, because a loaded host may poll late
ATTEMPTS = 3  # starts of a group whose workers or hosts die; a training error is final


class GroupSpec(BaseModel):
    """Computation of a group, as plain values that serialize cheaply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: dict[str, Any]
    stage: str
    key: str
    storage: str
    workers: int
    gpu: bool = False
    origin: str = ""  # working folder of the first asker, for relative paths in the recipe

    @property
    def actor_name(self) -> str:
        """Name of the actor that owns the group."""
        return f"group-{self.stage}-{self.key[:24]}"


class PollReply(NamedTuple):
    """Reply of an owner: reports after those seen, the training's error, whether the owner ends."""

    reports: list[dict[str, float]]
    error: str | None
    leaving: bool


class GroupFailedError(RuntimeError):
    """The training by a worker group failed; the message is the first worker's error."""


class AbandonedError(RuntimeError):
    """No trial waits for this group any more."""


class GroupOwner:
    """Owner of the computation of one stage result, in a detached actor.

    Args:
        spec: A `GroupSpec` as plain values.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = GroupSpec.model_validate(spec)
        self.reports: list[dict[str, float]] = []
        self.result: Computed | None = None
        self.error: str | None = None
        self.leaving = self.counted = False
        self.asked = time.monotonic()
        threading.Thread(target=self._live, name="group", daemon=True).start()

    def poll(self, seen: int) -> PollReply:
        """Note that a trial waits, and return the reports after the first ``seen``."""
        self.asked = time.monotonic()
        return PollReply(self.reports[seen:], self.error, self.leaving)

    def count_once(self) -> bool:
        """Return True for the first call only; that trial counts the computation as its own."""
        first, self.counted = not self.counted, True
        return first

    def report(self, number: int, row: dict[str, float]) -> bool:
        """Store a worker's report and return True if the training shall continue.

        A group that resumed sends its first reports again; they are ignored.
        """
        if number == len(self.reports):
            self.reports.append(row)
        return not self.abandoned()

    def accept(self, result: Computed) -> None:
        """Store the result of the first worker, which has sent all its reports before."""
        self.result = result

    def fail(self, error: str) -> None:
        """Store the first worker error; later errors of other workers are its consequences."""
        self.error = self.error or error

    def abandoned(self) -> bool:
        """Return True if no trial has polled for `ABANDONED_SECONDS`; the owner ends then."""
        if time.monotonic() - self.asked > ABANDONED_SECONDS:
            self.leaving = True
        return self.leaving

    def _live(self) -> None:
        """Compute the result, then stay until no trial polls any more."""
        import ray

        spec = self.spec
        step = next(s for s in plan(build(Experiment, spec.experiment)) if s.stage == spec.stage)
        try:
            StageStore(spec.storage).get_or_compute(
                spec.stage, spec.key, step.outputs, self._compute
            )
        except AbandonedError:
            logger.info("%s ends: no trial waits for the result any more", spec.actor_name)
        except Exception as error:
            # `GroupRunner` raises the error again in every waiting trial
            logger.exception("%s failed", spec.actor_name)
            self.error = self.error or f"{type(error).__name__}: {error}"
        while not self.abandoned():
            time.sleep(POLL_SECONDS)
        ray.kill(ray.get_runtime_context().current_actor)

    def _compute(self, folder: Path) -> Computed:
        """Start groups until one succeeds, the training fails, or no trial waits any more."""
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
                logger.warning(
                    "%s lost a worker (attempt %d of %d)", self.spec.actor_name, attempt, ATTEMPTS
                )
            if self.result is not None:
                break
        if self.result is None:
            raise GroupFailedError(f"{self.spec.actor_name} ended without a result")
        return self.result._replace(history=self.reports)

    def _wait_for_workers(self) -> None:
        """Wait until all workers fit; Ray Train would start processes for a waiting group."""
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
            train_loop_config={"spec": spec.model_dump(), "owner": spec.actor_name},
            torch_config=TorchConfig(backend="nccl" if spec.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=spec.workers, use_gpu=spec.gpu, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=spec.actor_name,
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
        finally:
            shutil.rmtree(f"{folder}/{spec.actor_name}", ignore_errors=True)


def work(config: Mapping[str, Any]) -> None:
    """Run a stage as one worker of a group; its inputs are loaded from the store."""
    import ray
    import ray.train.torch

    spec = GroupSpec.model_validate(config["spec"])
    work_in(spec.origin)
    owner = ray.get_actor(config["owner"], namespace=NAMESPACE)
    session = ray.train.get_context()
    rank, world = session.get_world_rank(), session.get_world_size()
    try:
        result = _run(spec, owner, rank, world)
    except Exception as error:
        # a lost connection to another worker follows from that worker's error
        if not isinstance(error, AbandonedError) and not _lost_peer(error):
            ray.get(owner.fail.remote(f"{type(error).__name__}: {error}"))
        raise
    if rank == 0:
        ray.get(owner.accept.remote(result))


def _lost_peer(error: Exception) -> bool:
    """Return True if an error only says that another worker has ended."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistBackendError" in names or any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset", "gloo")
    )


def _run(spec: GroupSpec, owner: Any, rank: int, world: int) -> Computed:
    import ray
    import ray.train.torch

    choose_threads(1 if not spec.gpu else max(1, (os.cpu_count() or 1) // world))
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
    states = states_of(step, upstream.digests, experiment.seed)
    # the worker of rank 0 copies the state, because the owner may be on another host
    continued = states.resume(store.backend, folder) if rank == 0 else 0
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
        states.keep(store.backend, folder)
    return Computed(result, [], continued, computed_by(step, context))
