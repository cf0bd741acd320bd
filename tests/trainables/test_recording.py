"""A recorded step is the step. There is no GPU in tests, so the recorder here freezes a step as a
CUDA graph does, but on the CPU: torch traces it into a list of calls with every number in it."""

import itertools
import logging
from collections.abc import Callable, Hashable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from traced import Traced

from trainables.experiment import Training
from trainables.loop import Group, make_optimizer, set_lr
from trainables.methods.losses import Loss
from trainables.recording import WARM_UP, CudaRecorder, RecordedStep, Recorder
from trainables.steps import EagerStep

TRAINING = Training(epochs=1, lr=0.1, momentum=0.9, weight_decay=0.01, schedule="cosine")
SIZES = (6, 6, 6, 6, 4) * 3  # three epochs, each with a shorter last batch
COUNTS = torch.tensor([9, 4, 2])


class Batch(NamedTuple):
    images: Tensor
    labels: Tensor
    extra: Tensor | None = None


class Toy:
    """A small network in float64, with the running statistics of its batch norm."""

    def __init__(self, loss: Loss | None = None, device: str = "cpu") -> None:
        draws = torch.Generator().manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        ).double()
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draws, dtype=torch.float64))
                parameter.mul_(0.3)
        self.network.to(device)
        self.device, self.counts = device, COUNTS.to(device)
        self.objective = loss or Loss.parse("cross_entropy")
        self.optimizer = make_optimizer(TRAINING, [Group(list(self.network.parameters()))])
        self.eager = EagerStep(self.loss, self.optimizer, TRAINING)

    def loss(self, batch: Batch, progress: float) -> Tensor:
        given = {"logits": self.network(batch.images), "labels": batch.labels}
        value: Tensor = self.objective.supplied(
            {**given, "class_counts": self.counts, "progress": progress}
        )
        return value

    def recorded(
        self, phase: Callable[[float], Hashable | None], recorder: Recorder
    ) -> RecordedStep:
        state = [*self.network.parameters(), *self.network.buffers()]
        return RecordedStep(self.eager, phase, state, recorder, "toy")

    def train(self, step: Callable[[Batch, float], Tensor]) -> list[float]:
        draws, losses = torch.Generator().manual_seed(1), []
        for number, size in enumerate(SIZES):
            images = torch.randn(size, 3, 6, 6, generator=draws, dtype=torch.float64)
            labels = torch.randint(3, (size,), generator=draws)
            set_lr(self.optimizer, TRAINING, number / len(SIZES))
            batch = Batch(images.to(self.device), labels.to(self.device))
            losses.append(float(step(batch, number / len(SIZES))))
        return losses

    def check_equal(self, other: "Toy") -> None:
        for (name, mine), theirs in zip(
            self.network.state_dict().items(), other.network.state_dict().values(), strict=True
        ):
            # the learning rate is a float32 tensor in a recording
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-8, msg=name)


def test_replayed_steps_are_the_steps() -> None:
    eager, toy, recorder = Toy(), Toy(), Traced()
    step = toy.recorded(lambda progress: (), recorder)
    torch.testing.assert_close(toy.train(step), eager.train(eager.eager), rtol=1e-6, atol=0)
    toy.check_equal(eager)
    assert recorder.recordings == 1
    assert step.count == SIZES.count(6) - WARM_UP  # the shorter batches run call by call


@pytest.mark.parametrize("base", ["cross_entropy", "logit_adjustment"])
def test_a_new_phase_is_recorded_anew(base: str) -> None:
    objective = Loss.parse({"deferred": {"start": 0.5, "base": base}})
    eager, toy, recorder = Toy(objective), Toy(objective), Traced()
    step = toy.recorded(objective.phase, recorder)
    torch.testing.assert_close(toy.train(step), eager.train(eager.eager), rtol=1e-6, atol=0)
    toy.check_equal(eager)
    assert recorder.recordings == 2


def test_a_loss_that_moves_with_every_step_is_never_recorded() -> None:
    toy, recorder = Toy(), Traced()
    step = toy.recorded(lambda progress: None, recorder)
    toy.train(step)
    assert recorder.recordings == step.count == 0


def test_a_replay_with_another_rate_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    class Slower(Traced):
        def record(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
            rate = toy.optimizer.param_groups[0]["lr"]
            rate.mul_(0.5)
            replay = super().record(compute)
            toy.optimizer.param_groups[0]["lr"] = rate.clone()  # the one recorded stays behind
            return replay

    toy = Toy()
    step = toy.recorded(lambda progress: (), Slower())
    with caplog.at_level(logging.INFO, "trainables.recording"):
        toy.train(step)
    assert step.count == 0
    assert "its replay differs from it by 0.5 of the change" in caplog.text


def test_a_step_that_counts_on_the_host_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    class Counting(Toy):
        def loss(self, batch: Batch, progress: float) -> Tensor:
            return super().loss(batch, progress) * next(self.factors)

        factors = itertools.count(1)

    toy = Counting()
    step = toy.recorded(lambda progress: (), Traced())
    with caplog.at_level(logging.INFO, "trainables.recording"):
        toy.train(step)
    assert step.count == 0
    assert caplog.messages[0].startswith("toy: the step runs eagerly: its replay differs from it")
    assert len(caplog.messages) == 1


def test_a_step_that_waits_goes_on_from_the_state_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing(Traced):
        def rehearse(self, compute: Callable[[], Tensor]) -> Tensor:
            compute()
            raise RuntimeError("called a synchronizing CUDA operation\nmore")

    eager, toy = Toy(), Toy()
    step = toy.recorded(lambda progress: (), Refusing())
    with caplog.at_level(logging.INFO, "trainables.recording"):
        toy.train(step)
    eager.train(eager.eager)
    toy.check_equal(eager)
    assert step.count == 0
    assert caplog.messages == ["toy: the step runs eagerly: called a synchronizing CUDA operation"]


def test_a_checkpoint_of_a_recorded_training_is_a_plain_one() -> None:
    toy = Toy()
    toy.train(toy.recorded(lambda progress: (), Traced()))
    state = toy.optimizer.state_dict()
    assert all(isinstance(rate, float) for rate in state["lr"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
def test_a_cuda_graph_is_the_step() -> None:
    eager, toy = Toy(device="cuda"), Toy(device="cuda")
    step = toy.recorded(lambda progress: (), CudaRecorder(torch.device("cuda")))
    torch.testing.assert_close(toy.train(step), eager.train(eager.eager), rtol=1e-6, atol=0)
    toy.check_equal(eager)
    assert step.count == SIZES.count(6) - WARM_UP


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
def test_a_step_that_waits_for_a_gpu_is_not_recorded() -> None:
    class Waiting(Toy):
        def loss(self, batch: Batch, progress: float) -> Tensor:
            value = super().loss(batch, progress)
            return value * (2.0 if value.item() > 0 else 1.0)

    toy = Waiting(device="cuda")
    step = toy.recorded(lambda progress: (), CudaRecorder(torch.device("cuda")))
    toy.train(step)
    assert step.given_up
    assert step.count == 0
