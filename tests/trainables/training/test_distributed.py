"""Several workers, real processes over gloo: the same result as one with the same global batch."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.artifacts import LabelledView
from trainables.context import Context
from trainables.data.views import Views, build_views
from trainables.errors import ConfigError
from trainables.experiment import Experiment, Training, load_experiment
from trainables.methods.mixers import mixup
from trainables.pipeline import plan, run_step
from trainables.settings import assign
from trainables.training.distributed import (
    GlobalBatchNorm2d,
    average,
    gathered,
    share_of_batch,
    shared,
    synchronise_batchnorm,
)
from trainables.training.loop import NonFiniteLossError, ParamGroup, TrainingState, fit
from trainables.transforms import mixing

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 240.0
# What is chosen by a measurement may differ between two runs on one machine.
TRAINING = {
    "epochs": 1,
    "batch_size": 32,
    "lr": 0.01,
    "sync_batchnorm": True,
    "precision": "float32",
    "layout": "contiguous",
}
# Each worker draws its own augmentation, so it is off where results are compared.
EQUAL = {
    "classify.augmentation": "none",
    "classify.training": TRAINING,
    "pretrain.augmentation": "none",
    "pretrain.training": TRAINING,
    "update.augmentation": "none",
    "update.mode": "full",
    "update.training": TRAINING,
    "score.threshold": {"known_recall": {"keep": 0.7}},
}


def member(rank: int, world: int, folder: Path, orders: Connection) -> None:
    """Be one worker of a group: do what is ordered until there is nothing more."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    while (order := orders.recv()) is not None:
        task, rest = order
        try:
            result = ("gave", task(Context(rank=rank, world_size=world), *rest))
        except Exception as error:
            result = ("raised", (type(error).__name__, str(error), traceback.format_exc()))
        orders.send(result)
    torch.distributed.destroy_process_group()


class Workers:
    """Several processes that do the same thing together, one thing after another."""

    def __init__(self, folder: Path, world: int = 2) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        pipes = [SPAWN.Pipe() for _ in range(world)]
        self.orders = [mine for mine, _ in pipes]
        self.processes = [
            SPAWN.Process(target=member, args=(rank, world, folder, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, task: Callable[..., Any], *rest: Any) -> list[Any]:
        """Return what each worker gave."""
        for order in self.orders:
            order.send((task, rest))
        late = [order for order in self.orders if not order.poll(PATIENCE)]
        assert not late, f"{len(late)} of {len(self.orders)} workers hang"
        results = [order.recv() for order in self.orders]
        assert all(kind == "gave" for kind, _ in results), results
        return [value for _, value in results]

    def close(self) -> None:
        for order in self.orders:
            order.send(None)
        for process in self.processes:
            process.join(10)
            process.kill()


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(tmp_path_factory.mktemp("group"))
    yield workers
    workers.close()


def some(view: LabelledView, count: int) -> LabelledView:
    """Part of a view, so that all batches are full."""
    rows = np.linspace(0, len(view.indices) - 1, count).astype(np.int64)
    return view._replace(indices=view.indices[rows], labels=view.labels[rows])


def recipe(changes: dict[str, Any]) -> tuple[Experiment, Views]:
    experiment = assign(load_experiment("experiments/digits.yaml"), EQUAL | changes)
    views = build_views(experiment.data)
    further = views.unlabelled._replace(indices=views.unlabelled.indices[:64])
    return experiment, views._replace(known_train=some(views.known_train, 128), unlabelled=further)


def train(context: Context, stage: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Run the stages up to one, that one with all workers, and return weights and reports."""
    experiment, views = recipe(changes)
    artifacts: dict[str, Any] = dict(views._asdict())
    reports: list[dict[str, float]] = []
    for step in plan(experiment):
        inputs = {name: artifacts[name] for name in step.inputs}
        if step.stage == stage:
            listening = Context(
                rank=context.rank,
                world_size=context.world_size,
                report=lambda metrics, epoch: reports.append({"epoch": epoch, **metrics}),
            )
            result = run_step(step, inputs, listening)
            break
        artifacts.update(run_step(step, inputs, Context()))
    states = {
        f"{name}.{key}": tensor
        for name, artifact in result.items()
        if hasattr(artifact, "state")
        for key, tensor in artifact.state.items()
    }
    if stage == "classify":
        states["feature_mean"] = result["classifier"].feature_mean
    return {"states": states, "reports": reports}


@contextmanager
def torch_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def train_precisely(context: Context, stage: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Train in float64: in float32 a deep network blows rounding up until it hides a mistake."""
    with torch_default(torch.float64):
        return train(context, stage, changes)


CASES = {
    "classify fastnet": (
        "classify",
        {
            "classify.sampler": "class_balanced",
            "classify.loss": "balanced_softmax",
            "classify.training.gradient_clip": 0.5,
        },
    ),
    "classify follow-ups": (
        "classify",
        {
            "classify.then": [
                {"epochs": 1, "lr": 0.01, "sampler": "class_balanced"},
                {"epochs": 2, "lr": 0.005, "schedule": "constant", "loss": "balanced_softmax"},
            ]
        },
    ),
    "classify resnet32": ("classify", {"pretrain.backbone": "resnet32"}),
    # whole batches fit into the queue: workers see the rows of a batch in another order
    "classify contrast": (
        "classify",
        {"classify.loss": {"paco": {"temperature": 0.5, "queue_size": 128}}},
    ),
    "classify class means": (
        "classify",
        {"classify.loss": {"joint": {"contrast": {"proco": {"temperature": 0.5}}, "weight": 1.0}}},
    ),
    "classify branches": (
        "classify",
        {
            "classify.branches": "hybrid",
            "classify.loss": {"joint": {"contrast": "psc", "schedule": "cumulative"}},
        },
    ),
    "classify frozen trunk": ("classify", {"classify.trunk": "frozen"}),
    "classify last blocks": ("classify", {"classify.trunk": {"last_blocks": {"block_decay": 0.5}}}),
    "classify plateau": (
        "classify",
        {
            "classify.training.schedule": "plateau",
            "classify.training.patience": 0,
            "classify.training.epochs": 4,
        },
    ),
    "classify self-training": (
        "classify",
        {
            "data.max_per_class": 60,
            "data.unlabelled": {"ratio": 1.0, "imbalance_factor": 2.0},
            "classify.self_trainer": {"hard_labels": {"weight": 0.5}},
        },
    ),
    "pretrain moco": (
        "pretrain",
        {"pretrain.method": {"moco": {"queue_size": 64, "momentum": 0.5}}},
    ),
    "pretrain simclr": (
        "pretrain",
        {"pretrain.method": {"simclr": {"hidden_dimension": 32, "output_dimension": 16}}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_two_workers_equal_one_with_the_same_global_batch(case: str, group: Workers) -> None:
    stage, changes = CASES[case]
    with torch_default(torch.float64):
        one = train(Context(), stage, changes)
    first, second = group(train_precisely, stage, changes)
    for name, tensor in one["states"].items():
        assert torch.equal(first["states"][name], second["states"][name]), name
        torch.testing.assert_close(first["states"][name], tensor, rtol=1e-5, atol=1e-6)
    assert second["reports"] == []  # one log
    assert [r["epoch"] for r in first["reports"]] == [r["epoch"] for r in one["reports"]]
    for mine, theirs in zip(first["reports"], one["reports"], strict=True):
        assert mine.keys() == theirs.keys()
        (loss,) = (name for name in mine if name.endswith("/loss"))
        assert mine[loss] == pytest.approx(theirs[loss], rel=1e-6)
        for name in mine.keys() & {"classify/train_accuracy", "classify/lr"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-6)


def train_mixed(context: Context) -> dict[str, Any]:
    """Train on mixed images of a written stream, and keep the shares that were drawn."""
    shares: list[float] = []

    def listening(alpha: float, generator: torch.Generator) -> float:
        shares.append(mixing.draw_share(alpha, generator))
        return shares[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixup, "draw_share", listening)
        changes = {"classify.mixing": "mixup", "classify.sampler": "class_aware"}
        return train(context, "classify", changes) | {"shares": shares}


def test_workers_mix_with_one_share_and_part_one_stream(group: Workers) -> None:
    one = train_mixed(Context())
    first, second = group(train_mixed)
    assert len(set(first["shares"])) == len(first["shares"]) > 1
    assert first["shares"] == second["shares"] == one["shares"]
    for name, tensor in first["states"].items():
        assert torch.equal(second["states"][name], tensor), name
    for name in ("classify/steps", "classify/samples_per_epoch"):
        assert [r[name] for r in first["reports"]] == [r[name] for r in one["reports"]]


def test_an_update_of_the_trunk_by_two_workers(group: Workers) -> None:
    # half of the pool is called unknown and two clusters are asked for, whatever the first training
    # reaches: an estimate of their number may be 0 by rounding, and then nothing is updated
    changes = {
        "classify.training.epochs": 6,
        "classify.training.lr": 0.05,
        "score.threshold": {"known_recall": {"keep": 0.5}},
        "discover.num_new_clusters": 2,
    }
    first, second = group(train, "update", changes)
    assert first["states"].keys() == second["states"].keys()
    for name, tensor in first["states"].items():
        assert torch.equal(second["states"][name], tensor), name
    names = {name for report in first["reports"] for name in report}
    assert {"update/head/loss", "update/trunk/loss"} <= names


def toy(context: Context, kind: str) -> Any:
    """Train one weight; something odd happens on the second worker at the second step."""
    weight = torch.nn.Parameter(torch.tensor([4.0, 2.0]))

    def loss(batch: int, progress: float) -> torch.Tensor:
        odd = context.rank == 1 and batch == 1
        if kind == "nan":
            return weight.sum() * (float("nan") if odd else 1.0)
        if kind == "constant" and odd:
            return torch.tensor(0.0)
        kept = torch.zeros(2) if odd else torch.ones(2)
        return ((weight - 1).pow(2) * kept).sum() / 2

    arguments = {
        "epoch_batches": lambda epoch: range(3),
        "steps_per_epoch": 3,
        "batch_loss": loss,
        "training": Training(epochs=4, lr=0.05, weight_decay=0.0),
        "context": context,
        "stage": "toy",
    }
    state = TrainingState({"all": torch.nn.ParameterList([weight])})
    try:
        fit([ParamGroup([weight])], state=state, **arguments)  # type: ignore[arg-type]
    except NonFiniteLossError as error:
        return str(error)
    return weight.detach()


def test_a_bad_loss_on_one_worker_stops_all_with_the_same_words(group: Workers) -> None:
    first, second = group(toy, "nan")
    assert first == second
    assert "toy: loss is nan at epoch 1, step 2" in first


@pytest.mark.parametrize("kind", ["constant", "masked"])
def test_a_batch_filtered_to_nothing_hangs_and_corrupts_nothing(kind: str, group: Workers) -> None:
    first, second = group(toy, kind)
    assert torch.equal(first, second)
    value, velocity = np.array([4.0, 2.0]), np.zeros(2)
    for step in range(12):  # the mean gradient of two workers, one of them silent at step 2
        gradient = (value - 1) * (0.5 if step % 3 == 1 else 1.0)
        velocity = 0.9 * velocity + gradient
        rate = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 12))
        value = value - rate * (gradient + 0.9 * velocity)
    np.testing.assert_allclose(first.numpy(), value, rtol=1e-5)


def pieces(context: Context) -> dict[str, Any]:
    """Try each collective by itself."""
    rows = torch.arange(4.0).view(2, 2) + 10 * context.rank
    rows.requires_grad_(True)
    everyone = gathered(rows, context)
    weights = torch.arange(8.0).view(4, 2)
    (everyone * weights).sum().backward()
    mean = torch.tensor([1.0 + context.rank, 0.1])
    counter = torch.tensor([7 + context.rank])
    average([mean, counter], context)
    first = context.own_generator("augmentation").initial_seed()
    common = context.generator("order").initial_seed()
    norm = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    synchronise_batchnorm(norm, context)
    maps = 100 + torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mine = maps[4 * context.rank :][:4].clone().requires_grad_(True)
    out = norm(mine)
    (out * torch.arange(4.0)).square().sum().backward()
    return {
        "everyone": everyone.detach(), "gradient": rows.grad, "mean": mean, "counter": counter,
        "own": first, "common": common, "shared": shared(f"from {context.rank}", context),
        "kind": type(norm[0]).__name__, "out": out.detach(), "mine": mine.grad,
        "running": norm[0].running_var.clone(), "keys": list(norm.state_dict()),
    }  # fmt: skip


def test_the_collectives(group: Workers) -> None:
    first, second = group(pieces)
    assert first["everyone"].tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
    assert torch.equal(first["everyone"], second["everyone"])
    assert first["gradient"].tolist() == [[0, 2], [4, 6]]  # both workers' gradients
    assert second["gradient"].tolist() == [[8, 10], [12, 14]]
    assert first["mean"].tolist() == pytest.approx([1.5, 0.1])
    assert float(first["mean"][1]) == float(torch.tensor(0.1))
    assert (first["counter"].item(), second["counter"].item()) == (7, 8)  # no mean of integers
    assert first["own"] != second["own"]
    assert first["common"] == second["common"]
    assert first["shared"] == second["shared"] == "from 0"
    norm = torch.nn.BatchNorm2d(3)
    maps = 100 + torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps.requires_grad_(True)
    expected = norm(maps)
    (expected * torch.arange(4.0)).square().sum().backward()
    assert first["kind"] == GlobalBatchNorm2d.__name__
    assert first["keys"] == [f"0.{name}" for name in norm.state_dict()]
    out = torch.cat([first["out"], second["out"]])
    torch.testing.assert_close(out, expected.detach(), rtol=1e-3, atol=1e-3)
    grads = torch.cat([first["mine"], second["mine"]])
    torch.testing.assert_close(grads, maps.grad, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(first["running"], norm.running_var, rtol=1e-4, atol=1e-5)


def resumed(context: Context, folder: Path) -> dict[str, Any]:
    """Train for two epochs of four, then as if started again; only the first worker has files."""
    own = folder / "scratch" if context.rank == 0 else None

    def run(epochs_seen: list[int], dies_at: int | None) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.tensor([4.0]))

        def batches(epoch: int) -> range:
            if epoch == dies_at:
                raise InterruptedError
            epochs_seen.append(epoch)
            return range(2)

        fit(
            [ParamGroup([weight])],
            epoch_batches=batches,
            steps_per_epoch=2,
            batch_loss=lambda batch, progress: (weight - context.rank).pow(2).sum(),
            training=Training(epochs=4, lr=0.05, weight_decay=0.0),
            context=Context(
                rank=context.rank, world_size=context.world_size, folder=own, checkpoint_seconds=0
            ),
            stage="toy",
        )
        return weight.detach()

    seen: list[int] = []
    with pytest.raises(InterruptedError):
        run([], dies_at=2)
    return {"weight": run(seen, None), "seen": seen}


def test_workers_go_on_together_from_the_first_ones_checkpoint(
    tmp_path: Path, group: Workers
) -> None:
    first, second = group(resumed, tmp_path)
    assert first["seen"] == second["seen"] == [2, 3]
    assert torch.equal(first["weight"], second["weight"])


def test_a_batch_that_cannot_be_shared_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"classify.training.batch_size must be a multiple of"):
        share_of_batch(33, Context(world_size=2), "classify")


def test_one_worker_changes_nothing() -> None:
    tensor = torch.ones(2)
    assert gathered(tensor, Context()) is tensor
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    synchronise_batchnorm(net, Context())
    assert type(net[0]) is torch.nn.BatchNorm2d
    assert Context().own_generator("x").initial_seed() == Context().generator("x").initial_seed()


def test_a_layer_without_a_synchronised_form_is_refused() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="BatchNorm1d has no synchronised form on 'cpu'"):
        synchronise_batchnorm(net, Context(world_size=2))
