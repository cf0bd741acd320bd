"""A stage that dies goes on from its last checkpoint, and ends as if it had not died."""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.listener import KilledError, Listener, Reports
from trainables.context import Context
from trainables.data.views import Views
from trainables.experiment import Experiment, Training
from trainables.pipeline import plan, run_step
from trainables.training.loop import ParamGroup, fit

SMALL = {
    "classify.training.epochs": 4,
    "classify.training.batch_size": 32,
    "classify.head": {"mlp": {"hidden": 16, "dropout": 0.5}},  # draws from the ambient generator
    "classify.loss": {"paco": {"queue_size": 50}},  # trains a projector and fills a queue
    "pretrain.method": {"simclr": {"hidden_dimension": 32, "output_dimension": 16}},
    "pretrain.training.epochs": 3,
    "pretrain.training.batch_size": 64,
    "update.mode": "full",
    "update.rounds": 2,
    "update.training.epochs": 2,
    "update.training.batch_size": 64,
    "score.threshold": {"known_recall": {"keep": 0.7}},
}


@pytest.fixture(scope="module")
def whole(base: Experiment, views: Views) -> dict[str, tuple[dict[str, Any], Reports]]:
    """What each stage gives and reports when nothing happens, without a folder."""
    artifacts: dict[str, Any] = dict(views._asdict())
    found = {}
    for step in plan(base):
        listener = Listener()
        inputs = {name: artifacts[name] for name in step.inputs}
        result = run_step(step, inputs, Context(report=listener))
        found[step.stage] = ({"inputs": inputs, **result}, listener.reports)
        artifacts.update(result)
    return found


def states(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All weights that a stage gave, by name."""
    return {
        f"{name}.{key}": tensor
        for name, artifact in result.items()
        if hasattr(artifact, "state")
        for key, tensor in artifact.state.items()
    }


@pytest.mark.parametrize(
    ("stage", "dies_at"), [("pretrain", 2), ("classify", 1), ("classify", 3), ("update", 7)]
)
def test_a_resumed_stage_equals_an_uninterrupted_one(
    base: Experiment,
    whole: dict[str, tuple[dict[str, Any], Reports]],
    tmp_path: Path,
    stage: str,
    dies_at: int,
) -> None:
    expected, reports = whole[stage]
    step = next(step for step in plan(base) if step.stage == stage)
    context = Context(folder=tmp_path, checkpoint_seconds=0)
    with pytest.raises(KilledError):
        run_step(step, expected["inputs"], replace(context, report=Listener(dies_at)))
    assert list(tmp_path.glob("*.checkpoint"))
    torch.rand(3)  # another process has another ambient state
    listener = Listener()
    result = run_step(step, expected["inputs"], replace(context, report=listener))
    assert listener.reports == reports
    assert states(result).keys() == states(expected).keys()
    for name, tensor in states(expected).items():
        assert torch.equal(states(result)[name], tensor), name
    if stage == "classify":
        assert torch.equal(result["classifier"].feature_mean, expected["classifier"].feature_mean)


class Toy:
    """A training of one weight that counts its steps."""

    def __init__(self, folder: Path | None, *, epochs: int = 5, seconds: float = 0.0) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([4.0]))
        self.training = Training(epochs=epochs, lr=0.05, weight_decay=0.0)
        self.folder, self.seconds, self.steps = folder, seconds, 0

    def loss(self, batch: int, progress: float) -> torch.Tensor:
        self.steps += 1
        return (self.weight - 1).pow(2).sum()

    def run(self, listener: Listener) -> float:
        fit(
            [ParamGroup([self.weight])],
            epoch_batches=lambda epoch: range(3),
            steps_per_epoch=3,
            batch_loss=self.loss,
            training=self.training,
            context=Context(folder=self.folder, report=listener, checkpoint_seconds=self.seconds),
            stage="toy",
        )
        return float(self.weight.detach())


def test_only_the_epochs_after_the_checkpoint_are_trained(tmp_path: Path) -> None:
    expected = Toy(None).run(Listener())
    with pytest.raises(KilledError):
        Toy(tmp_path).run(Listener(dies_at=3))
    second, listener = Toy(tmp_path), Listener()
    assert second.run(listener) == expected
    assert second.steps == 2 * 3
    assert [epoch for epoch, _ in listener.reports] == [1, 2, 3, 4, 5]


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    expected = Toy(tmp_path).run(Listener())
    second, listener = Toy(tmp_path), Listener()
    assert second.run(listener) == expected
    assert second.steps == 0
    assert len(listener.reports) == 5


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_ignored_and_logged(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Toy(None).run(Listener())
    with pytest.raises(KilledError):
        Toy(tmp_path).run(Listener(dies_at=4))
    newest = max(tmp_path.glob("*.checkpoint"))
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[:-7], "flipped": content, "empty": b""}[damage])
    second = Toy(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert second.run(Listener()) == expected
    assert second.steps == 2 * 3  # from the checkpoint before
    assert "damaged" in caplog.text


def test_two_checkpoints_are_kept_and_no_draft_is_left(tmp_path: Path) -> None:
    Toy(tmp_path).run(Listener())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["toy.000004.checkpoint", "toy.000005.checkpoint"]


def test_a_short_training_writes_nothing(tmp_path: Path) -> None:
    Toy(tmp_path, seconds=2.0).run(Listener())
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_cost_a_twentieth_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_save(state: object, file: object) -> None:
        time.sleep(0.05)
        real(state, file)

    real = torch.save
    monkeypatch.setattr(torch, "save", slow_save)
    toy = Toy(tmp_path, epochs=40, seconds=1e-6)
    toy.run(Listener())
    assert len(list(tmp_path.iterdir())) == 1  # the next is due after 1.25 s, which 39 epochs lack


def test_a_checkpoint_holds_no_code(tmp_path: Path) -> None:
    Toy(tmp_path).run(Listener())
    payload = max(tmp_path.glob("*.checkpoint")).read_bytes()[32:]
    path = tmp_path / "plain.pt"
    path.write_bytes(payload)
    state = torch.load(path, weights_only=True)
    assert set(state) == {"modules", "averages", "optimizer", "reports"}
