"""Worker groups outlive who asked for them, and go on when a worker dies."""

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util import placement_group_table

from orchestrator.execution.cluster import connect_ray
from orchestrator.execution.execute import execute
from orchestrator.store.stage_store import StageStore
from tests.helpers import ROOT
from trainables.context import Context
from trainables.experiment import Experiment, load_experiment
from trainables.settings import assign

pytestmark = pytest.mark.slow

EPOCHS = 40
PATIENCE = 240.0


def recipe(seed: int) -> Experiment:
    return assign(
        load_experiment(ROOT / "experiments" / "digits.yaml"),
        {
            "seed": seed,
            "classify.training.epochs": EPOCHS,
            "update.training.epochs": 2,
            "score.threshold": {"known_recall": {"keep": 0.8}},
        },
    )


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    if ray.is_initialized():
        ray.shutdown()
    connect_ray(None, workers=2)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import tests
    yield
    ray.shutdown()


class Asker:
    """A trial: asks for a recipe with two workers and counts what it hears."""

    def __init__(self) -> None:
        self.heard = 0

    def run(self, storage: str, seed: int) -> dict[str, Any]:
        def report(metrics: Mapping[str, float], epoch: int) -> None:
            self.heard += 1

        store = StageStore(storage)
        outcome = execute(recipe(seed), store, Context(seed=seed, report=report), workers=2)
        (use,) = (use for use in outcome.uses if use.stage == "classify")
        return {"reused": use.reused, "epochs": [row["epoch"] for row in use.history]}

    def count(self) -> int:
        return self.heard


def new_asker() -> Any:
    """Start one and wait until it runs: a group does not wait long for who still imports."""
    asker = ray.remote(num_cpus=0.01, max_concurrency=2)(Asker).remote()
    assert ray.get(asker.count.remote(), timeout=PATIENCE) == 0
    return asker


def wait_for_reports(asker: Any, number: int) -> None:
    end = time.monotonic() + PATIENCE
    while ray.get(asker.count.remote()) < number:
        assert time.monotonic() < end, "no report came"
        time.sleep(0.1)


def train_workers() -> list[psutil.Process]:
    """The processes of this cluster's training workers."""
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if "RayTrainWorker" in " ".join(p.cmdline())]


def no_group_is_left() -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if all(g["state"] == "REMOVED" for g in placement_group_table().values()):
            return True
        time.sleep(0.5)
    return False


def test_killing_who_asked_leaves_the_group_alone(tmp_path: Path) -> None:
    first, second = new_asker(), new_asker()
    first.run.remote(str(tmp_path), 1)
    wait_for_reports(first, 2)
    before = {worker.pid for worker in train_workers()}
    assert len(before) == 2
    ray.kill(first)
    answer = ray.get(second.run.remote(str(tmp_path), 1), timeout=PATIENCE)
    assert answer["epochs"] == list(range(1, EPOCHS + 1))
    assert not answer["reused"]  # counted once, for who was there at the end
    assert len(placement_group_table()) == 1  # nobody started another group
    assert no_group_is_left()


def test_a_worker_that_dies_is_replaced_and_every_epoch_counts_once(tmp_path: Path) -> None:
    asker = new_asker()
    result = asker.run.remote(str(tmp_path), 2)
    wait_for_reports(asker, 2)
    victim = train_workers()[0]
    victim.kill()
    answer = ray.get(result, timeout=2 * PATIENCE)
    assert answer["epochs"] == list(range(1, EPOCHS + 1))
    assert ray.get(asker.count.remote()) >= EPOCHS
    assert no_group_is_left()
