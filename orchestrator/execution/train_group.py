"""Training of a stage by a Ray Train worker group, which several trials can wait for.

The group belongs to a detached actor, its owner, which is named by the key of the result. A trial
that needs the result polls the owner until the store has the result. Stopping or killing a trial
does not stop the group. If no trial polls any more, the group ends after the current epoch and
frees its workers; its checkpoint stays, and the next group resumes from the checkpoint.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from orchestrator.execution.group_owner import (
    ATTEMPTS,
    NAMESPACE,
    POLL_SECONDS,
    GroupFailedError,
    GroupOwner,
    GroupSpec,
    PollReply,
)
from orchestrator.store.stage_store import StageStore, Stored
from trainables.context import Report
from trainables.experiment import Experiment
from trainables.pipeline import Step
from trainables.threads import WAIT_POLICY

logger = logging.getLogger(__name__)

# of the owner, and of its workers, which inherit it
ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "OMP_WAIT_POLICY": WAIT_POLICY}


class GroupRunner:
    """Runs the training steps of one recipe in worker groups.

    Args:
        experiment: The recipe.
        store: Store of the results.
        workers: Workers per group.
        gpu: Give each worker a GPU.
    """

    def __init__(
        self, experiment: Experiment, store: StageStore, *, workers: int, gpu: bool = False
    ) -> None:
        self.experiment, self.store = experiment, store
        self.workers, self.gpu = workers, gpu

    def __call__(self, step: Step, key: str, report: Report) -> tuple[Stored, int]:
        """Return a step's result, computed by a group if not stored, and send its reports on.

        Returns:
            The result, and the number of its reports that were sent on.

        Raises:
            GroupFailedError: The training failed, or the group lost workers too often.
        """
        import ray

        # what `auto` stands for was decided by the trial, for its key: no worker decides again
        self.experiment = self.experiment.model_copy(update={step.stage: step.settings})
        found = self.store.find(step.stage, key, step.outputs)
        if found is not None:
            return found, 0
        spec = GroupSpec(
            experiment=self.experiment.model_dump(mode="json"),
            stage=step.stage,
            key=key,
            storage=self.store.backend.uri,
            workers=self.workers,
            gpu=self.gpu,
            origin=os.getcwd(),
        )
        seen, deaths = 0, 0
        while True:
            try:
                owner = owner_of(spec)
                polled = ray.get(owner.poll.remote(seen))
            except ray.exceptions.RayActorError:  # the owner has ended, or its host died
                deaths += 1
                if deaths > 10 * ATTEMPTS:
                    raise GroupFailedError(
                        f"{step.stage}: the actor of the worker group died {deaths} times"
                    ) from None
                polled = PollReply([], None, True)
            found = self.store.find(step.stage, key, step.outputs)
            rows = polled.reports if found is None else found.history[seen:]
            for row in rows:
                report({k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))
            seen += len(rows)
            if found is not None:
                return found._replace(reused=not _count_once(spec)), seen
            if polled.error is not None:
                raise GroupFailedError(polled.error)
            time.sleep(POLL_SECONDS)


def owner_of(spec: GroupSpec) -> Any:
    """Return the owner of a result's group; the first call starts the actor."""
    import ray

    address = ray.get_runtime_context().gcs_address
    # Ray Train's cleaner process searches for a cluster and fails if it finds two.
    environment = {**ENVIRONMENT, "RAY_ADDRESS": address}
    return (
        ray.remote(GroupOwner)
        .options(
            name=spec.actor_name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=64,
            runtime_env={"env_vars": environment},
        )
        .remote(spec.model_dump())
    )


def _count_once(spec: GroupSpec) -> bool:
    """Return True for the one trial that counts the computation as its own."""
    import ray

    try:
        owner = ray.get_actor(spec.actor_name, namespace=NAMESPACE)
        return bool(ray.get(owner.count_once.remote()))
    except (ValueError, ray.exceptions.RayActorError):  # the owner has ended: computed earlier
        return False
