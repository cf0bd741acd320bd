"""Schedules of the learning rate beside those of torch, and the plateau through a training."""

from __future__ import annotations

import pytest
import torch

from trainables.context import Context
from trainables.functional.plateau import reductions
from trainables.training.classify_settings import Training
from trainables.training.loop import ParamGroup, fit, lr_factor, plateau_factor

STEPS = 40


def torch_rates(make, steps: int = STEPS) -> list[float]:
    """Return the rates of a scheduler of torch, before each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def rates(training: Training, steps: int = STEPS) -> list[float]:
    return [lr_factor(training, step / steps) for step in range(steps)]


def test_cosine_and_step_are_those_of_torch() -> None:
    lr = torch.optim.lr_scheduler
    expected = torch_rates(lambda o: lr.CosineAnnealingLR(o, T_max=STEPS))
    assert rates(Training(schedule="cosine")) == pytest.approx(expected, abs=1e-12)
    expected = torch_rates(lambda o: lr.MultiStepLR(o, milestones=[10, 30], gamma=0.2))
    training = Training(schedule="step", epochs=STEPS, milestones=(10, 30), gamma=0.2)
    assert rates(training) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_warm_up_as_a_fraction_is_linear_and_the_cosine_spans_the_rest(share: float) -> None:
    lr, warm = torch.optim.lr_scheduler, round(share * STEPS)
    expected = torch_rates(
        lambda o: lr.SequentialLR(
            o,
            [lr.LinearLR(o, 1e-9, 1.0, warm), lr.CosineAnnealingLR(o, STEPS - warm)],
            milestones=[warm],
        )
    )
    training = Training(schedule="cosine", warmup_fraction=share)
    assert rates(training) == pytest.approx(expected, abs=1e-8)
    for schedule in ("constant", "plateau"):
        flat = rates(Training(schedule=schedule, warmup_fraction=share))
        assert flat == pytest.approx([min(1.0, step / warm) for step in range(STEPS)])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patience", [0, 2, 5])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_is_that_of_torch(mode: str, patience: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    values = torch.rand(60, generator=draws).mul(0.2).add(torch.linspace(0.2, 0.9, 60))
    values = values if mode == "max" else 1.2 - values
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, factor=0.5, patience=patience, eps=0.0
    )
    for end, value in enumerate(values.tolist(), start=1):
        scheduler.step(value)
        times = reductions(values[:end].tolist(), patience=patience, higher_is_better=mode == "max")
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5**times)
    assert times > 0 or patience == 5


def test_a_plateau_watches_the_validation_accuracy_else_the_loss() -> None:
    training = Training(schedule="plateau", patience=0, gamma=0.1)
    losses = [{"classify/loss": 1.0 - 0.1 * epoch} for epoch in range(3)]
    assert plateau_factor(training, losses, "classify") == 1.0
    seen = [{**row, "classify/validation_accuracy": 0.5} for row in losses]
    assert plateau_factor(training, seen, "classify") == pytest.approx(0.01)
    assert plateau_factor(Training(), seen, "classify") == 1.0


def test_a_training_on_a_plateau_lowers_its_rate_and_goes_on_with_it(tmp_path) -> None:
    """Losses that never fall: each further epoch has a tenth of the rate, resumed or not."""
    training = Training(
        schedule="plateau", patience=0, epochs=4, lr=1.0, momentum=0.0, weight_decay=0.0
    )

    def run(until: int, folder) -> list[float]:
        weight = torch.nn.Parameter(torch.zeros(()))
        reports = fit(
            [ParamGroup([weight])],
            epoch_batches=lambda epoch: range(2),
            steps_per_epoch=2,
            batch_loss=lambda batch, progress: 1.0 + 0.0 * weight,
            training=training.model_copy(update={"until": until}),
            context=Context(folder=folder),
            stage="pretrain",
        )
        return [report["pretrain/lr"] for report in reports]

    expected = pytest.approx([1.0, 1.0, 0.1, 0.01])
    assert run(0, None) == expected
    assert len(run(2, tmp_path)) == 2
    assert run(0, tmp_path) == expected
