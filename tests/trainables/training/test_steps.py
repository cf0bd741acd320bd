"""How a training step runs: eagerly, or with a trunk that torch compiled."""

import logging
import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.context import Context
from trainables.data.views import Views
from trainables.experiment import Experiment, Training
from trainables.models.backbone import build_trunk
from trainables.pipeline import run
from trainables.settings import assign, dump_yaml
from trainables.training.loop import ParamGroup, TrainingState, fit, make_optimizer
from trainables.training.mixed_batch import mixed_features
from trainables.training.steps import EagerStep, Step, make_step
from trainables.transforms.mixing import paired

SMALL: dict[str, Any] = {
    "data.max_per_class": 30,
    "classify.training.epochs": 1,
    "classify.training.batch_size": 64,
    "update.training.epochs": 1,
}


def made(step: str, *, trunk: bool = True, **context: Any) -> tuple[Step, EagerStep]:
    training, network = Training(step=step), nn.Linear(2, 1)  # type: ignore[arg-type]
    optimizer = make_optimizer(training, [ParamGroup(list(network.parameters()))])
    eager = EagerStep(lambda batch, progress: network(batch).sum(), optimizer, training)
    chosen = make_step(
        eager, training, network if trunk else None, context=Context(**context), name="toy"
    )
    return chosen, eager


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("step", ["auto", "eager"])
def test_steps_run_call_by_call_and_nothing_is_said(
    step: str, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "trainables"):
        chosen, eager = made(step, device=torch.device(device))
    assert chosen is eager
    assert not caplog.messages


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"step": "graph"}, "CUDA graphs were removed, see docs/machines_and_gpus.md"),
        ({"step": "graph", "device": torch.device("cuda")}, "CUDA graphs were removed"),
        ({"step": "compiled", "world_size": 2}, "several workers average their gradients"),
        ({"step": "compiled", "trunk": False}, "it calls no trunk as a whole"),
    ],
)
def test_what_can_not_be_had_runs_eagerly_and_one_line_says_why(
    wanted: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen, eager = made(**wanted)
    assert chosen is eager
    (line,) = caplog.messages
    assert line.startswith(f"toy: training.step '{wanted['step']}' runs eagerly: {reason}")


def test_of_several_workers_one_says_why(caplog: pytest.LogCaptureFixture) -> None:
    for rank in range(3):
        made("compiled", world_size=3, rank=rank)
    assert len(caplog.messages) == 1


def test_a_recipe_of_before_that_asks_for_a_graph_trains_eagerly(
    base: Experiment, views: Views, caplog: pytest.LogCaptureFixture
) -> None:
    states = []
    for step in ("graph", "eager"):
        recipe = assign(base, {"classify.training.step": step})
        artifacts = run(recipe, Context(seed=1), views=views)
        states.append(artifacts["classifier"].state["bias"])
        assert dump_yaml(recipe).count(f"step: {step}\n") == 1
    assert torch.equal(*states)
    assert said_of_steps(caplog) == [
        "classify: training.step 'graph' runs eagerly: CUDA graphs were removed, "
        "see docs/machines_and_gpus.md"
    ]


def said_of_steps(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "training.step" in message]


def test_branches_that_are_called_one_by_one_are_not_compiled(
    base: Experiment, views: Views, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = assign(base, {"classify.branches": "bbn", "classify.training.step": "compiled"})
    rows: list[Mapping[str, float]] = []
    run(recipe, Context(report=lambda row, epoch: rows.append(row)), views=views)
    (line,) = said_of_steps(caplog)
    assert line.endswith("it calls no trunk as a whole, which could be compiled")
    assert not any("classify/steps_compiled" in row for row in rows)


def test_hidden_mixing_passes_by_a_compiled_trunk_which_would_ignore_its_hook() -> None:
    trunk = build_trunk("fastnet", 16)
    images, partner = torch.rand(4, 3, 16, 16), torch.tensor([1, 2, 3, 0])
    mix = paired(torch.arange(4), 0.3, partner)._replace(place="hidden", depth=0.99)
    expected = mixed_features(trunk, images, mix)
    trunk._compiled_call_impl = lambda *_: torch.zeros(0)
    assert torch.equal(mixed_features(trunk, images, mix), expected)
    assert mixed_features(trunk, images, None).shape == (0,)


@pytest.mark.parametrize("stage", ["pretrain", "classify"])
def test_stages_name_the_trunk_that_is_compiled(
    base: Experiment, views: Views, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a minute of torch's compiler is spared: that its code is the trunk's is tested below
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    changes = {f"{stage}.training.step": "compiled", f"{stage}.training.epochs": 1}
    method = "simclr" if stage == "pretrain" else "none"
    recipe = assign(base, {"pretrain.method": method, **changes})
    rows: list[Mapping[str, float]] = []
    run(recipe, Context(report=lambda row, epoch: rows.append(row)), views=views)
    (row,) = (row for row in rows if f"{stage}/steps_compiled" in row)
    assert row[f"{stage}/steps_compiled"] >= row[f"{stage}/steps"] - 1  # the last batch may differ


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # what torch's compiler warns of
def test_a_compiled_step_is_the_step_and_the_record_says_so() -> None:
    results, reports = [], []
    for step in ("eager", "compiled"):
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        batches = torch.randn(3, 6, 4).unbind() + torch.randn(1, 3, 4).unbind()

        def loss(batch: Tensor, progress: float, trunk: nn.Module = trunk) -> Tensor:
            value: Tensor = trunk(batch).square().mean()
            return value

        found = fit(
            [ParamGroup(list(trunk.parameters()))],
            epoch_batches=lambda epoch, batches=batches: batches,  # type: ignore[misc]
            steps_per_epoch=4,
            batch_loss=loss,
            training=Training(epochs=2, lr=0.05, step=step),  # type: ignore[arg-type]
            context=Context(),
            stage="toy",
            state=TrainingState({"trunk": trunk}, trunk=trunk),
        )
        assert trunk._compiled_call_impl is None  # outside of a step the trunk runs as it is
        results.append(trunk.state_dict())
        reports.append(found[-1])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-6)
    assert "toy/steps_compiled" not in reports[0]
    assert reports[1]["toy/steps_compiled"] == 6  # the shorter batches ran call by call
    assert reports[1]["toy/steps"] == 8
