"""Means per class over two epochs: what they forget, and that no interruption changes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.context import Context
from trainables.data.views import build_views
from trainables.experiment import load_experiment
from trainables.functional.class_means import ClassMeans
from trainables.pipeline import plan, run_step
from trainables.settings import assign

CHANGES = {
    "classify.training.epochs": 4,
    "classify.training.batch_size": 64,
    "classify.loss": {"joint": {"contrast": {"proco": {"dimension": 8}}, "weight": 1.0}},
}


def test_means_are_over_the_last_epoch_and_the_running_one() -> None:
    draw = torch.Generator().manual_seed(0)
    means = ClassMeans(3, dimension=2)
    epochs: list[list[tuple[torch.Tensor, int]]] = []
    for _ in range(3):
        means.start_epoch()
        seen: list[tuple[torch.Tensor, int]] = []
        for _ in range(2):
            rows = torch.randn(5, 2, generator=draw, dtype=torch.float64)
            labels = torch.randint(2, (5,), generator=draw)
            means.observe(rows, labels)
            seen += zip(rows, labels.tolist(), strict=True)
            recent = [pair for pairs in (*epochs[-1:], seen) for pair in pairs]
            for label in (0, 1):
                own = torch.stack([row for row, other in recent if other == label])
                torch.testing.assert_close(means()[label], own.mean(dim=0))
        epochs.append(seen)
        assert torch.equal(means()[2], means.unseen[2])  # a class without samples


def test_a_class_that_was_away_for_two_epochs_is_unknown_again() -> None:
    means = ClassMeans(2, dimension=1)
    means.observe(torch.tensor([[0.5]]), torch.tensor([0]))
    for held in (True, False):
        means.start_epoch()
        means.observe(torch.tensor([[0.25]]), torch.tensor([1]))
        assert (means()[0].item() == 0.5) is held
    assert means()[0].abs().item() == pytest.approx(0.9)


def test_what_is_kept_is_the_whole_state() -> None:
    means, copy = ClassMeans(3, dimension=4), ClassMeans(3, dimension=4)
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    means.observe(rows, torch.tensor([0, 1, 0, 1, 0, 0]))
    means.start_epoch()
    means.observe(rows, torch.tensor([1, 1, 1, 0, 0, 0]))
    copy.load_state_dict(means.state_dict())
    assert torch.equal(copy(), means())
    for each in (means, copy):
        each.start_epoch()
    assert torch.equal(copy(), means())


class KilledError(RuntimeError):
    """The process died."""


def test_a_training_that_dies_ends_as_if_it_had_not(tmp_path: Path) -> None:
    experiment = assign(load_experiment("experiments/digits.yaml"), CHANGES)
    artifacts: dict[str, Any] = dict(build_views(experiment.data)._asdict())
    first, second = plan(experiment)[:2]
    inputs = {name: artifacts[name] for name in first.inputs}
    artifacts |= run_step(first, inputs, Context())
    inputs = {name: artifacts[name] for name in second.inputs}

    def dies(metrics: Mapping[str, float], epoch: int) -> None:
        if epoch == 3:
            raise KilledError

    whole = run_step(second, inputs, Context())
    with pytest.raises(KilledError):
        run_step(second, inputs, Context(report=dies, folder=tmp_path, checkpoint_seconds=0))
    resumed = run_step(second, inputs, Context(folder=tmp_path, checkpoint_seconds=0))
    for name in ("backbone", "classifier"):
        for key, tensor in whole[name].state.items():
            assert torch.equal(resumed[name].state[key], tensor), key
