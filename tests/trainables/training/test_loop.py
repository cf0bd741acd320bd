import numpy as np
import pytest
import torch

from tests.helpers import GOLDEN
from trainables.context import Context
from trainables.experiment import Training
from trainables.training.loop import (
    NonFiniteLossError,
    ParamGroup,
    fit,
    lr_factor,
    make_optimizer,
    num_steps,
)

VECTORS = np.load(GOLDEN / "schedules.npz")


def rates(training: Training, base: float) -> list[float]:
    return [base * lr_factor(training, e / training.epochs) for e in range(training.epochs)]


@pytest.mark.parametrize(
    ("case", "gamma"), [("lr_ldam_cifar_200/lr", 0.01), ("lr_mislas_stage1/lr", 0.1)]
)
def test_step_schedule_is_the_official_one(case: str, gamma: float) -> None:
    training = Training(
        epochs=200, schedule="step", milestones=(160, 180), gamma=gamma, warmup_epochs=5
    )
    np.testing.assert_allclose(rates(training, 0.1), VECTORS[case], rtol=1e-9)


def test_cosine_schedule_is_the_official_one() -> None:
    training = Training(epochs=10, schedule="cosine")
    np.testing.assert_allclose(
        rates(training, 0.1), VECTORS["lr_mislas_stage2/lr_scale"], rtol=1e-7
    )


def test_one_cycle_rises_and_falls() -> None:
    training = Training(epochs=10, schedule="one_cycle")
    values = [lr_factor(training, t) for t in (0.0, 0.15, 0.3, 0.65, 1.0)]
    np.testing.assert_allclose(values, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-12)


def test_groups_keep_the_asked_ratio() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = make_optimizer(Training(lr=0.2), [ParamGroup([first]), ParamGroup([second], 0.1)])
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.02])


def run(weight: torch.nn.Parameter, training: Training, loss: object) -> list[tuple[int, float]]:
    seen: list[tuple[int, float]] = []
    fit(
        [ParamGroup([weight])],
        epoch_batches=lambda epoch: range(3),
        steps_per_epoch=3,
        batch_loss=loss,  # type: ignore[arg-type]
        training=training,
        context=Context(report=lambda metrics, epoch: seen.append((epoch, metrics["toy/loss"]))),
        stage="toy",
    )
    return seen


def test_fit_minimises_and_reports_every_epoch() -> None:
    weight = torch.nn.Parameter(torch.tensor([4.0]))
    training = Training(epochs=20, lr=0.05, weight_decay=0.0)
    seen = run(weight, training, lambda batch, progress: (weight - 1).pow(2).sum())
    assert [epoch for epoch, _ in seen] == list(range(1, 21))
    assert seen[-1][1] < 1e-2 < seen[0][1]
    assert abs(float(weight.detach()) - 1) < 0.1


def test_epochs_may_differ_in_length_and_steps_are_counted() -> None:
    weight, lengths = torch.nn.Parameter(torch.tensor([4.0])), (2, 6, 3)
    training, seen, reports = Training(epochs=3, lr=0.01), [], []

    def loss(batch: int, progress: float) -> torch.Tensor:
        seen.append(progress)
        return weight.sum()

    fit(
        [ParamGroup([weight])],
        epoch_batches=lambda epoch: range(lengths[epoch]),
        steps_per_epoch=lambda epoch: lengths[epoch],
        batch_loss=loss,
        training=training,
        context=Context(report=lambda metrics, epoch: reports.append(dict(metrics))),
        stage="toy",
    )
    wanted = [(epoch + step / n) / 3 for epoch, n in enumerate(lengths) for step in range(n)]
    assert seen == pytest.approx(wanted)
    assert [report["toy/steps"] for report in reports] == [2, 8, 11]
    last = lr_factor(training, wanted[-1]) * training.lr
    assert reports[-1]["toy/lr"] == pytest.approx(last)


def test_fit_equals_a_hand_written_loop() -> None:
    training = Training(epochs=4, lr=0.03, weight_decay=0.01, schedule="cosine")
    weight = torch.nn.Parameter(torch.tensor([4.0, -2.0]))
    run(weight, training, lambda batch, progress: (weight - 1).pow(2).sum())
    value, velocity = np.array([4.0, -2.0]), np.zeros(2)
    for step in range(12):
        rate = 0.03 * 0.5 * (1 + np.cos(np.pi * step / 12))
        gradient = 2 * (value - 1) + 0.01 * value
        velocity = 0.9 * velocity + gradient
        value = value - rate * (gradient + 0.9 * velocity)
    np.testing.assert_allclose(weight.detach().numpy(), value, rtol=1e-5)


def test_nan_names_stage_epoch_step_and_last_metrics() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))

    def loss(batch: int, progress: float) -> torch.Tensor:
        return weight.sum() * (float("nan") if progress > 0.4 and batch == 1 else 1.0)

    with pytest.raises(NonFiniteLossError, match=r"toy: loss is nan at epoch 2, step 2.*toy/loss="):
        run(weight, Training(epochs=3, lr=0.01), loss)


def test_gradient_clip_bounds_the_step() -> None:
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    training = Training(
        epochs=1, lr=1.0, momentum=0.0, weight_decay=0.0, gradient_clip=0.5, schedule="constant"
    )
    run(weight, training, lambda batch, progress: 100 * weight.sum())
    assert float(weight.detach()) == pytest.approx(-1.5, rel=1e-4)


def test_no_epochs_leave_everything_as_it_was() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    assert run(weight, Training(epochs=0), lambda batch, progress: weight.sum()) == []
    assert float(weight.detach()) == 2.0


@pytest.mark.parametrize(("samples", "size", "steps"), [(0, 8, 1), (8, 8, 1), (9, 8, 2)])
def test_num_steps(samples: int, size: int, steps: int) -> None:
    assert num_steps(samples, size) == steps
