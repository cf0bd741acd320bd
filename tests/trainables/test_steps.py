import logging
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainables.context import Context
from trainables.experiment import Training
from trainables.loop import Group, Kept, fit, make_optimizer
from trainables.recording import RecordedStep
from trainables.steps import EagerStep, Step, make_step


def made(
    step: str,
    *,
    phase: Any = lambda progress: (),
    device: str = "cpu",
    workers: int = 1,
    named: str = "trunk",
) -> tuple[Step, EagerStep]:
    training, trunk = Training(step=step), nn.Linear(2, 1)  # type: ignore[arg-type]
    optimizer = make_optimizer(training, [Group(list(trunk.parameters()))])
    eager = EagerStep(lambda batch, progress: trunk(batch).sum(), optimizer, training)
    context = Context(device=torch.device(device), world_size=workers)
    chosen = make_step(
        eager, training, phase=phase, state=[], modules={named: trunk}, context=context, name="toy"
    )
    return chosen, eager


@pytest.mark.parametrize("step", ["auto", "eager"])
def test_a_cpu_runs_call_by_call_and_says_nothing(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "trainables"):
        chosen, eager = made(step)
    assert chosen is eager
    assert not caplog.messages


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"step": "graph"}, "there are no graphs on 'cpu'"),
        ({"step": "graph", "device": "cuda", "workers": 2}, "several workers"),
        ({"step": "auto", "device": "cuda", "phase": None}, "changes with every step"),
        ({"step": "auto", "device": "cuda", "phase": lambda progress: None}, "changes with every"),
        ({"step": "compiled", "phase": None}, "changes with every step"),
        ({"step": "compiled", "named": "head"}, "there is no trunk"),
    ],
)
def test_what_can_not_be_had_runs_eagerly_and_says_why(
    wanted: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "trainables"):
        chosen, eager = made(**wanted)
    assert chosen is eager
    (line,) = caplog.messages
    assert line.startswith("toy: the step runs eagerly: ")
    assert reason in line


def test_a_gpu_records_what_holds_still() -> None:
    for step in ("auto", "graph"):
        assert type(made(step, device="cuda")[0]) is RecordedStep


def test_a_rate_from_a_recorded_training_becomes_a_number() -> None:
    training, weight = Training(), nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(training, [Group([weight])])
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    eager = EagerStep(lambda batch, progress: weight.sum(), optimizer, training)
    make_step(eager, training, phase=None, state=[], modules={}, context=Context(), name="toy")
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert isinstance(optimizer.param_groups[0]["lr"], float)


def test_a_rate_in_a_tensor_is_the_rate() -> None:
    weights = [nn.Parameter(torch.tensor([4.0, -2.0])) for _ in range(2)]
    training = Training(lr=0.1, momentum=0.9, weight_decay=0.01)
    for weight, rate in zip(weights, (0.1, torch.tensor(0.1)), strict=True):
        optimizer = make_optimizer(training, [Group([weight])])
        optimizer.param_groups[0]["lr"] = rate

        def loss(batch: Tensor, progress: float, weight: Tensor = weight) -> Tensor:
            return (batch * weight).square().sum()

        step = EagerStep(loss, optimizer, training)
        for number in range(5):
            step(torch.tensor([1.0, number]), 0.0)
    torch.testing.assert_close(weights[0], weights[1])


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
            [Group(list(trunk.parameters()))],
            epoch_batches=lambda epoch, batches=batches: batches,  # type: ignore[misc]
            steps_per_epoch=4,
            batch_loss=loss,
            training=Training(epochs=2, lr=0.05, step=step),  # type: ignore[arg-type]
            context=Context(),
            stage="toy",
            kept=Kept({"trunk": trunk}, phase=lambda progress: ()),
        )
        assert trunk._compiled_call_impl is None  # outside of a step the trunk runs as it is
        results.append(trunk.state_dict())
        reports.append(found[-1])
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-6)
    assert "toy/steps_compiled" not in reports[0]
    assert reports[1]["toy/steps_compiled"] == 6  # the shorter batches ran call by call
    assert reports[1]["toy/steps"] == 8
