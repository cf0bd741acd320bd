"""A training that ends early is the beginning of the whole one, and can be gone on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.context import Context
from trainables.data.views import Views
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.pipeline import describe, plan, run_step, step_key, whole
from trainables.settings import assign, build, flatten
from trainables.training.checkpoints import newest_epoch

EPOCHS = 4
SMALL = {
    "classify.training.epochs": EPOCHS,
    "classify.training.batch_size": 32,
    "classify.head": {"mlp": {"hidden": 16, "dropout": 0.5}},  # draws from the ambient generator
    "classify.loss": {"paco": {"queue_size": 50}},  # trains a projector and fills a queue
    "classify.sampler": "progressively_balanced",  # depends on the place in the schedule
    "pretrain.method": {"simclr": {"hidden_dimension": 32, "output_dimension": 16}},
    "pretrain.training.epochs": EPOCHS,
    "pretrain.training.batch_size": 64,
}
Reports = list[tuple[int, dict[str, float]]]


def train(
    recipe: Experiment, stage: str, inputs: Mapping[str, Any], folder: Path | None
) -> tuple[dict[str, Any], Reports]:
    """Run one stage and return what it gave and reported."""
    step = next(step for step in plan(recipe) if step.stage == stage)
    reports: Reports = []
    context = Context(folder=folder, report=lambda row, epoch: reports.append((epoch, dict(row))))
    return run_step(step, {name: inputs[name] for name in step.inputs}, context), reports


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, artifact in result.items()
        for key, tensor in artifact.state.items()
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stage", ["pretrain", "classify"])
@pytest.mark.parametrize("ends", [(1, 0), (1, 2, 3, 0)])
def test_rung_by_rung_equals_the_whole_training_bit_by_bit(
    base: Experiment,
    views: Views,
    tmp_path: Path,
    stage: str,
    optimizer: str,
    ends: tuple[int, ...],
) -> None:
    recipe = assign(base, {f"{stage}.training.optimizer": optimizer})
    recipe = assign(recipe, {f"{stage}.training.lr": 0.01})
    inputs = dict(views._asdict())
    if stage == "classify":
        plain = assign(recipe, {"pretrain.method": "none"})
        inputs |= train(plain, "pretrain", inputs, None)[0]
    expected, reported = train(recipe, stage, inputs, None)
    for end in ends:
        cut = assign(recipe, {f"{stage}.training.until": end})
        found, reports = train(cut, stage, inputs, tmp_path)
        assert not end or newest_epoch(tmp_path) == end
        assert reports == reported[: end or EPOCHS]
    assert weights(found).keys() == weights(expected).keys()
    for name, tensor in weights(expected).items():
        assert torch.equal(weights(found)[name], tensor), name
    if stage == "classify":
        assert torch.equal(found["classifier"].feature_mean, expected["classifier"].feature_mean)
        assert found["classifier"].train_cost == expected["classifier"].train_cost


def test_an_early_end_is_at_its_place_in_the_schedule_and_not_a_shorter_schedule(
    base: Experiment, views: Views
) -> None:
    inputs = dict(views._asdict())
    cut, reports = train(assign(base, {"pretrain.training.until": 2}), "pretrain", inputs, None)
    short, others = train(assign(base, {"pretrain.training.epochs": 2}), "pretrain", inputs, None)
    assert len(reports) == len(others) == 2
    assert reports[-1][1]["pretrain/lr"] > 5 * others[-1][1]["pretrain/lr"]
    assert any(not torch.equal(a, weights(short)[n]) for n, a in weights(cut).items())


def test_a_whole_training_is_written_as_before(base: Experiment) -> None:
    assert "until" not in base.model_dump_json()
    assert assign(base, {"classify.training.until": 0}).digest() == base.digest()
    cut = assign(base, {"classify.training.until": 2})
    assert cut.digest() != base.digest()
    assert build(Experiment, cut.model_dump(mode="json")) == cut
    assert flatten(cut)["classify.training.until"] == 2


def test_trainings_of_all_lengths_share_the_whole_one(base: Experiment) -> None:
    steps = [plan(assign(base, {"classify.training.until": until}))[1] for until in (0, 1, 3)]
    digests = dict.fromkeys(steps[0].inputs, "x")
    keys = [step_key(step, digests, 0) for step in steps]
    assert len(set(keys)) == 3
    assert {step_key(whole(step), digests, 0) for step in steps} == {keys[0]}


def test_a_plan_shows_where_a_training_ends(base: Experiment) -> None:
    stages = [row[0] for row in describe(plan(assign(base, {"classify.training.until": 3})))]
    assert stages[:3] == ["pretrain", "classify (3 of 4 epochs)", "extract"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classify.training.until": 4},
            r"classify\.training: until must be below epochs \(4\), or 0 .*received 4",
        ),
        ({"pretrain.training.until": 9}, r"pretrain\.training: until must be below epochs"),
        ({"classify.training.until": -1}, r"classify\.training\.until: .*received -1"),
        ({"update.training.until": 2}, r"update\.training\.until: must be 0"),
    ],
)
def test_an_end_that_cannot_be_is_one_line(
    base: Experiment, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        assign(base, changes)
    assert "\n" not in str(error.value)


def test_what_trains_twice_is_not_cut_short(base: Experiment) -> None:
    recipe = assign(base, {"data.unlabelled.ratio": 1.0, "classify.self_trainer": "hard_labels"})
    with pytest.raises(ConfigError, match=r"classify\.training\.until: must be 0, .*trains twice"):
        assign(recipe, {"classify.training.until": 2})
