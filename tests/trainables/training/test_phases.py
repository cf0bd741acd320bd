"""Trainings that follow one another: the plain loop, resumed, cut short, and refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.listener import KilledError, Listener
from trainables.context import Context, derive_seed
from trainables.data.views import Views
from trainables.errors import ConfigError
from trainables.experiment import Experiment
from trainables.keys import methods_of
from trainables.pipeline import plan, run_step, step_key, whole
from trainables.settings import assign, build, flatten
from trainables.training.checkpoints import newest_epoch
from trainables.training.classify_model import ClassifyModel, build_model
from trainables.training.self_training import Lesson
from trainables.training.step_batches import StepBatches
from trainables.transforms.mixing import draw_partners, draw_share

SMALL = {
    "classify.training": {
        "epochs": 2,
        "batch_size": 32,
        "lr": 0.05,
        "precision": "float32",
        "layout": "contiguous",
    },
    "classify.then": [
        {
            "epochs": 3,
            "lr": 0.02,
            "schedule": "step",
            "milestones": [2],
            "sampler": "progressively_balanced",
            "mixing": "mixup",
        },
        {"epochs": 2, "lr": 0.01, "schedule": "constant", "loss": {"deferred": {"start": 0.5}}},
    ],
}
EPOCHS = 7
# the lr of each epoch's last step
RATES = [0.02, 0.02, 0.002, 0.01, 0.01]


@pytest.fixture(scope="module")
def inputs(base: Experiment, views: Views) -> dict[str, Any]:
    """What the stage gets."""
    step = plan(base)[0]
    given: dict[str, Any] = dict(views._asdict())
    return given | run_step(step, {name: given[name] for name in step.inputs}, Context())


def train(recipe: Experiment, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
    step = next(step for step in plan(recipe) if step.stage == "classify")
    return run_step(step, {name: inputs[name] for name in step.inputs}, context)


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    states = {name: artifact.state for name, artifact in result.items()}
    found = {f"{name}.{key}": t for name, state in states.items() for key, t in state.items()}
    return found | {"mean": result["classifier"].feature_mean}


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert weights(found).keys() == weights(expected).keys()
    for name, tensor in weights(expected).items():
        assert torch.equal(weights(found)[name], tensor), name
    assert found["classifier"].train_cost == expected["classifier"].train_cost


def plain_loop(base: Experiment, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Train with torch's own optimiser, schedule and losses, phase by phase, written out."""
    context, lesson = Context(), Lesson(inputs["known_train"])
    model = build_model(base.classify, inputs["backbone"], inputs["known_train"], context)
    parameters = [*model.trunk.parameters(), *model.head.parameters()]
    own, first = base.classify, base.classify.then[0]
    told = {"sampler": first.sampler, "mixing": first.mixing}
    phases = [
        (own, context, 2, 0.05, None),
        (own.model_copy(update=told), of_phase(1), 3, 0.02, [2]),
        (own, of_phase(2), 2, 0.01, []),
    ]
    for number, (settings, draws, epochs, lr, milestones) in enumerate(phases):
        training = settings.training.model_copy(update={"epochs": epochs})
        shown = settings.model_copy(update={"training": training})
        batches = StepBatches(shown, lesson, 1, draws)
        optimizer = torch.optim.SGD(
            parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=training.weight_decay
        )
        for epoch in range(epochs):
            model.trunk.train()
            steps = batches.steps(epoch)
            for step, (batch, _) in enumerate(batches.epoch(epoch)):
                done = (epoch + step / steps) / epochs
                rate = lr * (1 + torch.tensor(torch.pi * done).cos()) / 2
                if milestones is not None:
                    rate = torch.tensor(lr * 0.1 ** sum(epoch >= m for m in milestones))
                optimizer.param_groups[0]["lr"] = float(rate)
                loss = loss_of(number, model, batch, batches, done)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return {
        **{f"backbone.{k}": v for k, v in model.trunk.state_dict().items()},
        **{f"classifier.{k}": v for k, v in model.head.state_dict().items()},
    }


def of_phase(number: int) -> Context:
    return Context(seed=derive_seed(0, "classify", "then", number))


def loss_of(
    number: int, model: ClassifyModel, batch: Any, batches: StepBatches, done: float
) -> torch.Tensor:
    """Return cross-entropy; mixed in the second training, weighted late in the third."""
    labels, images, counts, draws = batch.labels, batch.images, batches.counts, batches.mixing
    entropy = torch.nn.functional.cross_entropy
    if number == 1:
        share, partner = draw_share(1.0, draws), draw_partners(labels, draws)
        images = images.float() / 255
        images = share * images + (1 - share) * images[partner]
        logits = model.head(model.trunk(images))
        return share * entropy(logits, labels) + (1 - share) * entropy(logits, labels[partner])
    logits = model.head(model.trunk(images))
    if number == 0 or done < 0.5:
        return entropy(logits, labels)
    wanted = (1 - 0.9999) / (1 - 0.9999 ** counts.double())
    weight = wanted / wanted.mean()
    return (weight[labels] * entropy(logits, labels, reduction="none")).sum() / weight[labels].sum()


def test_weights_equal_a_plain_loop(base: Experiment, inputs: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float64)  # a network blows the rounding of float32 up
    try:
        expected = plain_loop(base, inputs)
        found = weights(train(base, inputs, Context()))
    finally:
        torch.set_default_dtype(torch.float32)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    before = weights(train(assign(base, {"classify.then": []}), inputs, Context()))
    assert (before["classifier.weight"] - found["classifier.weight"]).abs().max() > 0.01


def test_epochs_and_steps_are_counted_through(base: Experiment, inputs: dict[str, Any]) -> None:
    listener, alone = Listener(), Listener()
    result = train(base, inputs, Context(report=listener))
    train(assign(base, {"classify.then": []}), inputs, Context(report=alone))
    assert listener.reports[:2] == alone.reports, "the first training is that without follow-ups"
    epochs, rows = zip(*listener.reports, strict=True)
    assert epochs == tuple(range(1, EPOCHS + 1))
    assert [row["classify/lr"] for row in rows[2:]] == pytest.approx(RATES)
    steps = [row["classify/steps"] for row in rows]
    assert steps == [steps[0] * epoch for epoch in epochs]
    samples = sum(row["classify/samples_per_epoch"] for row in rows)
    assert result["classifier"].train_cost == {
        "classify_steps": steps[-1],
        "classify_samples": samples,
    }


DRAWING = {  # dropout draws from the ambient generator; paco has a projector and a queue
    "classify.head": {"mlp": {"hidden": 16, "dropout": 0.5}},
    "classify.loss": {"paco": {"queue_size": 50}},
    "classify.then": [
        {"epochs": 2, "lr": 0.02},
        {"epochs": 2, "lr": 0.02, "loss": "balanced_softmax", "mixing": "mixup"},
        {"epochs": 2, "lr": 0.01, "sampler": "class_aware"},
    ],
}


@pytest.mark.parametrize("dies_at", [1, 3, 5])
def test_a_resumed_stage_equals_an_uninterrupted_one(
    base: Experiment, inputs: dict[str, Any], tmp_path: Path, dies_at: int
) -> None:
    recipe, whole_run, listener = assign(base, DRAWING), Listener(), Listener()
    expected = train(recipe, inputs, Context(report=whole_run))
    context = Context(folder=tmp_path, checkpoint_seconds=0)
    with pytest.raises(KilledError):
        train(recipe, inputs, replace(context, report=Listener(dies_at)))
    assert newest_epoch(tmp_path) == dies_at
    if dies_at > 2:  # what comes before is in the newest checkpoint
        for path in tmp_path.glob("classify.*.checkpoint"):
            path.unlink()
    torch.rand(3)  # another process has another ambient state
    found = train(recipe, inputs, replace(context, report=listener))
    assert listener.reports == whole_run.reports
    assert_equal(found, expected)


def test_a_damaged_checkpoint_of_a_follow_up_is_not_missed(
    base: Experiment, inputs: dict[str, Any], tmp_path: Path
) -> None:
    expected, listener = Listener(), Listener()
    result = train(base, inputs, Context(report=expected))
    context = Context(folder=tmp_path, checkpoint_seconds=0)
    with pytest.raises(KilledError):
        train(base, inputs, replace(context, report=Listener(4)))
    for path in tmp_path.glob("classify-then-1.*.checkpoint"):
        path.write_bytes(path.read_bytes()[:-7])
    found = train(base, inputs, replace(context, report=listener))
    assert listener.reports == expected.reports
    assert_equal(found, result)


def test_a_rung_ends_before_what_follows_and_is_gone_on_with(
    base: Experiment, inputs: dict[str, Any], tmp_path: Path
) -> None:
    cut = assign(base, {"classify.training.until": 1})
    listener = Listener()
    train(cut, inputs, Context(folder=tmp_path, report=listener))
    assert [epoch for epoch, _ in listener.reports] == [1]
    assert_equal(train(base, inputs, Context(folder=tmp_path)), train(base, inputs, Context()))
    steps = [plan(recipe)[1] for recipe in (base, cut)]
    digests = dict.fromkeys(steps[0].inputs, "x")
    assert step_key(whole(steps[1]), digests, 0) == step_key(steps[0], digests, 0)


def test_a_recipe_without_follow_ups_is_written_as_before(base: Experiment) -> None:
    plain = assign(base, {"classify.then": []})
    assert "then" not in plain.model_dump()["classify"]
    assert build(Experiment, base.model_dump(mode="json")) == base
    assert assign(plain, {"classify.then": flatten(base)["classify.then"]}) == base
    assert base.digest() != plain.digest()
    names = {method.name for method in methods_of(base.classify)}
    assert {"progressively_balanced", "mixup", "deferred"} <= names


@pytest.mark.parametrize(
    ("follow_up", "message"),
    [
        ({"epochs": 1}, r"classify\.then\.0\.lr: required setting is missing"),
        ({"epochs": 0, "lr": 0.1}, r"classify\.then\.0\.epochs: .*equal to 1.*received 0"),
        ({"epochs": 1, "lr": 0.1, "mixin": "none"}, r"classify\.then\.0: .*did you mean 'mixing'"),
        ({"epochs": 1, "lr": 0.1, "mixing": "mixupp"}, r"classify\.then\.0\.mixing: .*'mixup'\?"),
        (
            {"epochs": 1, "lr": 0.1, "mixing": "mixup", "loss": "paco"},
            r"classify\.then\.0: classify\.mixing: the loss 'paco' compares samples",
        ),
        ({"epochs": 1, "lr": 0.1, "loss": "supcon"}, r"classify\.then\.0: .*trains the features"),
        (
            {"epochs": 1, "lr": 0.1, "loss": "ride"},
            r"classify\.then\.0: .*needs the head 'experts'",
        ),
    ],
)
def test_a_follow_up_that_cannot_be_is_one_line(
    base: Experiment, follow_up: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        assign(base, {"classify.then": [follow_up]})
    assert "\n" not in str(error.value)


def test_nothing_follows_a_training_of_no_epochs(base: Experiment) -> None:
    with pytest.raises(ConfigError, match=r"classify\.then: .*epochs must be at least 1; received"):
        assign(base, {"classify.training.epochs": 0})
