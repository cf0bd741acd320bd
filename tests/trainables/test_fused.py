"""Models that train side by side are the models that train alone, up to rounding."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from no_waiting import no_waiting
from pretend_device import THERE, ThereContext
from torch import Tensor, nn
from traced import Traced

from trainables.artifacts import Backbone
from trainables.backbone import build_trunk
from trainables.context import Context
from trainables.data import Views
from trainables.experiment import Classify, Experiment, Training
from trainables.fused import NotFusedError, Stack, lacking, side_by_side
from trainables.fused_classify import Given, refusal, run_together
from trainables.fused_loop import Fleet, FusedStep
from trainables.loop import Group, NonFiniteLossError, make_optimizer, set_lr
from trainables.pipeline import plan, run_step
from trainables.recording import WARM_UP, RecordedStep
from trainables.settings import assign
from trainables.stages import classify
from trainables.stages.classify import Classified

SMALL = {
    "data.max_per_class": 40,
    "data.validation_per_class": 4,
    "classify.training.epochs": 3,
    "classify.training.batch_size": 32,
    "classify.training.precision": "float32",
    "classify.training.layout": "channels_last",
}
PLAIN: dict[str, Any] = {}
LATE: dict[str, Any] = {  # what changes in the middle of training, and a head with another scale
    "pretrain.backbone": "resnet32",
    "classify.loss": {"deferred": {"start": 0.5}},
    "classify.head": "cosine",
    "classify.sampler": "class_balanced",
    "classify.training.schedule": "step",
    "classify.training.milestones": [1, 2],
    "classify.training.gradient_clip": 0.5,
    "classify.training.layout": "contiguous",
    "classify.training.epochs": 2,
}
SEEDS = (3, 4)
Reports = list[tuple[int, dict[str, float]]]


@pytest.fixture
def doubles() -> Iterator[None]:
    """Compute in float64, in which two ways of adding up can be told from two results."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- the stack ------------------------------------------------------------------------------------


def networks(name: str, layout: torch.memory_format, count: int = 3) -> list[nn.Module]:
    return [
        build_trunk(name, 16, generator=torch.Generator().manual_seed(seed))
        .network.double()
        .to(memory_format=layout)
        for seed in range(count)
    ]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["fastnet", "resnet32", "resnet18_small"])
def test_outputs_gradients_and_statistics_are_those_of_each(
    name: str, layout: torch.memory_format
) -> None:
    modules = networks(name, layout)
    alone = deepcopy(modules)
    stack = Stack(modules)
    draws = torch.Generator().manual_seed(0)
    for _ in range(2):
        images = torch.randn(3, 4, 3, 16, 16, generator=draws, dtype=torch.float64)
        outputs = stack(side_by_side(images, layout))
        outputs.square().sum().backward()
        for number, module in enumerate(alone):
            expected = module(images[number].contiguous(memory_format=layout))
            expected.square().sum().backward()
            torch.testing.assert_close(outputs[number], expected, rtol=1e-9, atol=1e-9)
    for number, module in enumerate(alone):
        for key, parameter in module.named_parameters():
            gradient = stack.parameters[key].grad
            assert gradient is not None
            torch.testing.assert_close(gradient[number], parameter.grad, rtol=1e-9, atol=1e-7)
        for key, buffer in module.named_buffers():
            torch.testing.assert_close(dict(modules[number].named_buffers())[key], buffer)
            torch.testing.assert_close(stack.buffers[key][number], buffer)


def test_a_model_does_not_see_the_others() -> None:
    images = torch.randn(3, 4, 3, 16, 16, dtype=torch.float64)
    found = []
    for factor in (1.0, torch.nan):
        stack = Stack(networks("fastnet", torch.contiguous_format))
        given = images.clone()
        given[1] *= factor
        found.append(stack(given))
    assert torch.equal(found[0][::2], found[1][::2])
    assert found[1][1].isnan().any()


def test_modules_are_views_of_the_stack_and_their_states_are_not() -> None:
    modules = networks("fastnet", torch.channels_last, 2)
    stack = Stack(modules)
    with torch.no_grad():
        stack.parameters["stem.bias"][1] = 7.0
    assert bool((modules[1].get_parameter("stem.bias") == 7.0).all())
    assert bool((modules[0].get_parameter("stem.bias") == 0.0).all())
    state = modules[1].state_dict()
    for tensor in state.values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    modules[0].load_state_dict(state)
    assert bool((stack.parameters["stem.bias"][0] == 7.0).all())
    assert stack.parameters["stem.weight"][0].is_contiguous(memory_format=torch.channels_last)


def test_maps_are_not_copied_on_their_way_into_a_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    layout = torch.channels_last
    stack = Stack([deepcopy(layer).to(memory_format=layout) for _ in range(2)])

    def watched(maps: Tensor, *more: Any) -> Tensor:
        seen.append(maps._is_view() and maps.is_contiguous(memory_format=layout))
        return torch.nn.functional.conv2d(maps, *more)

    monkeypatch.setattr("trainables.fused.conv2d", watched)
    stack(side_by_side(torch.randn(2, 5, 3, 8, 8), layout))
    assert seen == [True, True]


def test_different_modules_are_refused() -> None:
    with pytest.raises(NotFusedError, match="differ in shape"):
        Stack([nn.Linear(2, 3), nn.Linear(2, 4)])


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.BatchNorm2d(2, momentum=None), "BatchNorm2d"),
        (nn.BatchNorm2d(2, track_running_stats=False), "BatchNorm2d"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), "Conv2d"),
        (nn.GroupNorm(1, 2), "GroupNorm"),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)), ""),
    ],
)
def test_layers_without_a_grouped_form_are_found(layer: nn.Module, name: str) -> None:
    assert lacking(layer) == name


# --- the stage ------------------------------------------------------------------------------------


class Run(NamedTuple):
    result: Classified
    reports: Reports


def contexts(reports: list[Reports], folder: Path | None = None) -> list[Context]:
    return [
        Context(
            seed=seed,
            report=lambda row, epoch, own=own: own.append((epoch, dict(row))),  # type: ignore[misc]
            folder=None if folder is None else folder / str(seed),
            checkpoint_seconds=0.0,
        )
        for seed, own in zip(SEEDS, reports, strict=True)
    ]


def given(recipe: Experiment, views: Views, found: list[Context]) -> list[Given]:
    step = plan(recipe)[0]
    inputs = {name: getattr(views, name) for name in step.inputs}
    return [
        Given(
            run_step(step, inputs, Context(seed=context.seed))["backbone"],
            views.known_train,
            views.validation_known,
            context,
        )
        for context in found
    ]


def one_by_one(settings: Classify, trainings: list[Given]) -> list[Classified]:
    return [
        classify.run(
            settings,
            backbone=own.backbone,
            known_train=own.known_train,
            validation_known=own.validation_known,
            context=own.context,
        )
        for own in trainings
    ]


def both(recipe: Experiment, views: Views) -> Iterator[tuple[Run, Run]]:
    """Yield each seed's training alone, and together with the others."""
    ways: list[Callable[..., Any]] = [one_by_one, run_together]
    runs = []
    for way in ways:
        reports: list[Reports] = [[] for _ in SEEDS]
        results = way(recipe.classify, given(recipe, views, contexts(reports)))
        runs.append([Run(*pair) for pair in zip(results, reports, strict=True)])
    yield from zip(*runs, strict=True)


def weights(result: Classified) -> Tensor:
    tensors = [*result.backbone.state.values(), *result.classifier.state.values()]
    return torch.cat([t.double().flatten() for t in (*tensors, result.classifier.feature_mean)])


def assert_equal(alone: Run, together: Run, tolerance: float) -> None:
    expected, found = weights(alone.result), weights(together.result)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert together.result.classifier.training == alone.result.classifier.training
    assert together.result.backbone.architecture == alone.result.backbone.architecture
    assert len(alone.reports) == len(together.reports)
    for (epoch, row), (other_epoch, other) in zip(alone.reports, together.reports, strict=True):
        assert other.pop("classify/steps_fused") == other["classify/steps"]
        assert other_epoch == epoch
        assert other == pytest.approx(row, rel=1e-6)  # losses are reported in float32


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("changes", [PLAIN, LATE], ids=["fastnet", "resnet32"])
def test_together_equals_alone(base: Experiment, views: Views, changes: dict[str, Any]) -> None:
    states = []
    for alone, together in both(assign(base, changes), views):
        assert_equal(alone, together, 1e-9)
        states.append(weights(alone.result))
    assert not torch.allclose(states[0], states[1], rtol=0.1)  # each seed is a model of its own


@pytest.mark.parametrize("name", ["fastnet", "resnet32"])
def test_a_few_steps_in_float32_differ_by_rounding_alone(
    base: Experiment, views: Views, name: str
) -> None:
    # the fewer steps the better: a maximum or a ReLU that turns over is no longer rounding
    training = {"epochs": 1, "batch_size": 64, "lr": 0.01}
    changes = {f"classify.training.{name}": value for name, value in training.items()}
    recipe = assign(base, {**changes, "pretrain.backbone": name})
    for alone, together in both(recipe, views):
        expected, found = weights(alone.result), weights(together.result)
        assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_in_bfloat16_models_learn_as_they_do_alone(base: Experiment, views: Views) -> None:
    recipe = assign(base, {"classify.training.precision": "bfloat16"})
    for alone, together in both(recipe, views):
        first, last = (together.reports[n][1]["classify/loss"] for n in (0, -1))
        assert last < 0.9 * first
        assert first == pytest.approx(alone.reports[0][1]["classify/loss"], rel=0.1)
        assert all(t.dtype != torch.bfloat16 for t in together.result.backbone.state.values())


def test_results_hold_no_more_memory_than_their_own(base: Experiment, views: Views) -> None:
    recipe = assign(base, {"classify.training.epochs": 1})
    reports: list[Reports] = [[] for _ in SEEDS]
    for result in run_together(recipe.classify, given(recipe, views, contexts(reports))):
        assert isinstance(result, Classified)
        for tensor in (*result.backbone.state.values(), *result.classifier.state.values()):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


def interrupted(trainings: list[Given], after: int) -> list[Given]:
    """Return the trainings such that the last one is cut off when it reports an epoch."""

    def report(row: Any, epoch: int) -> None:
        if epoch == after:
            raise StoppedError

    last = trainings[-1]
    cut = Context(last.context.device, last.context.seed, report, last.context.folder)
    return [*trainings[:-1], last._replace(context=cut)]


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    ("before", "after"),
    [(run_together, run_together), (run_together, one_by_one), (one_by_one, run_together)],
)
def test_an_interrupted_training_goes_on_together_or_alone(
    base: Experiment,
    views: Views,
    tmp_path: Path,
    before: Callable[..., Any],
    after: Callable[..., Any],
) -> None:
    expected = [alone for alone, _ in both(base, views)]
    trainings = given(base, views, contexts([[] for _ in SEEDS], tmp_path))
    if before is run_together:
        with pytest.raises(StoppedError):
            run_together(base.classify, interrupted(trainings, 2))
    else:
        before(assign(base, {"classify.training.until": 2}).classify, trainings)
    reports: list[Reports] = [[] for _ in SEEDS]
    results = after(base.classify, given(base, views, contexts(reports, tmp_path)))
    for alone, result, own in zip(expected, results, reports, strict=True):
        torch.testing.assert_close(weights(result), weights(alone.result), rtol=1e-9, atol=1e-9)
        assert [epoch for epoch, _ in own] == [1, 2, 3]
        losses = [row["classify/loss"] for _, row in own]
        assert losses == pytest.approx([row["classify/loss"] for _, row in alone.reports], rel=1e-6)


def test_those_interrupted_after_different_epochs_go_on_alone(
    base: Experiment, views: Views, tmp_path: Path
) -> None:
    trainings = given(base, views, contexts([[] for _ in SEEDS], tmp_path))
    for until, own in zip((2, 1), trainings, strict=True):
        one_by_one(assign(base, {"classify.training.until": until}).classify, [own])
    with pytest.raises(NotFusedError, match="different epochs"):
        run_together(base.classify, trainings)


def spoiled(backbone: Backbone) -> Backbone:
    state = {name: tensor.clone() for name, tensor in backbone.state.items()}
    state["network.stem.weight"][0] = torch.nan
    return backbone._replace(state=state)


def test_a_model_that_diverges_drops_out_and_the_others_go_on(
    base: Experiment, views: Views, tmp_path: Path
) -> None:
    runs = []
    for spoil in (False, True):
        reports: list[Reports] = [[] for _ in SEEDS]
        trainings = given(base, views, contexts(reports, tmp_path / str(spoil)))
        if spoil:
            trainings[1] = trainings[1]._replace(backbone=spoiled(trainings[1].backbone))
        runs.append((run_together(base.classify, trainings), reports))
    (whole, _), (results, reports) = runs
    assert isinstance(results[1], NonFiniteLossError)
    assert "epoch 1, step 1" in str(results[1])
    assert [len(own) for own in reports] == [3, 0]
    assert not list((tmp_path / "True" / str(SEEDS[1])).glob("*.checkpoint"))
    assert isinstance(whole[0], Classified)
    assert isinstance(results[0], Classified)
    assert torch.equal(weights(whole[0]), weights(results[0]))


# --- what goes on alone ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training.optimizer": "adamw"}, "training.optimizer is 'adamw'; fused: 'sgd'"),
        ({"training.step": "graph"}, "training.step is 'graph'; fused: 'auto' or 'eager'"),
        ({"training.step": "compiled"}, "training.step is 'compiled'"),
        ({"mixing": "mixup"}, "mixing is 'mixup'"),
        ({"branches": "bbn"}, "branches is 'bbn'"),
        ({"then": [{"epochs": 1, "lr": 0.1}]}, "other trainings follow"),
        ({"head": "experts", "loss": "ride"}, "the head 'experts' has branches of the trunk"),
        ({"loss": {"joint": {"contrast": "supcon"}}}, "the loss 'joint' trains a module"),
        ({"loss": "ldam", "head": "causal_norm"}, ""),
    ],
)
def test_settings_that_can_not_be_fused_are_refused(changes: dict[str, Any], reason: str) -> None:
    found = refusal(assign(Classify(), changes))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_a_head_that_draws_is_refused_before_anything_is_trained(
    base: Experiment, views: Views
) -> None:
    recipe = assign(base, {"classify.head": {"mlp": {"hidden": 8, "dropout": 0.5}}})
    reports: list[Reports] = [[] for _ in SEEDS]
    with pytest.raises(NotFusedError, match="random"):
        run_together(recipe.classify, given(recipe, views, contexts(reports)))
    assert not any(reports)


def test_unequal_trainings_are_refused(base: Experiment, views: Views) -> None:
    trainings = given(base, views, contexts([[] for _ in SEEDS]))
    fewer = views.known_train._replace(
        indices=views.known_train.indices[:-1], labels=views.known_train.labels[:-1]
    )
    other = given(assign(base, {"pretrain.backbone": "resnet32"}), views, contexts([[], []]))
    for wrong, reason in [
        (trainings[:1], "only one"),
        ([], "only one"),
        ([trainings[0], trainings[1]._replace(known_train=fewer)], "differ in their images"),
        ([trainings[0], other[1]], "differ in their architecture"),
    ]:
        with pytest.raises(NotFusedError, match=reason):
            run_together(base.classify, wrong)


# --- the step -------------------------------------------------------------------------------------


def test_a_fused_step_can_be_recorded(caplog: pytest.LogCaptureFixture) -> None:
    draws = torch.Generator().manual_seed(0)
    batches = torch.randn(8, 2, 4, 3, 16, 16, generator=draws, dtype=torch.float64)
    found = []
    for recorded in (False, True):
        stack = Stack(networks("fastnet", torch.channels_last, 2))
        parameters, training = list(stack.parameters.values()), Training(lr=0.01)
        optimizer = make_optimizer(training, [Group(parameters)])

        def loss(images: Tensor, progress: float, own: Stack = stack) -> Tensor:
            maps = side_by_side(images, torch.channels_last)
            return own(maps).square().mean((1, 2))

        eager = FusedStep(loss, optimizer, training)
        state = [*parameters, *stack.buffers.values()]
        step: Any = eager
        if recorded:
            step = RecordedStep(eager, lambda progress: (), state, Traced(), "two")
        with caplog.at_level(logging.INFO, "trainables"):
            losses = torch.stack([step(batch, 0.0) for batch in batches])
        found.append([losses, *state])
    assert step.count == len(batches) - WARM_UP
    for eager_tensor, replayed in zip(*found, strict=True):
        torch.testing.assert_close(replayed, eager_tensor, rtol=1e-7, atol=1e-7)


def test_gradients_are_clipped_for_each_model_by_itself() -> None:
    training = Training(lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, gradient_clip=1.0)
    weights = nn.Parameter(torch.zeros(2, 2))
    optimizer = make_optimizer(training, [Group([weights])])
    slopes = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    step = FusedStep(lambda batch, progress: (weights * slopes).sum(1), optimizer, training)
    step(None, 0.0)
    torch.testing.assert_close(weights.data, torch.tensor([[-0.6, -0.8], [-0.3, -0.4]]))


class StepTakenError(Exception):
    """A step was done."""


@pytest.mark.parametrize("loss", ["cross_entropy", "ldam", "deferred"])
def test_a_fused_step_does_not_wait_for_its_device(
    base: Experiment, views: Views, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(fleet: Fleet, **told: Any) -> None:
        training = told["training"]
        optimizer = make_optimizer(training, [Group(list(fleet.parameters))])
        optimizer.param_groups[0]["lr"] = torch.zeros((), device=THERE)
        step = FusedStep(told["batch_losses"], optimizer, training)
        batches = iter(told["epoch_batches"](0))
        batch = next(batches)  # the order of the epoch is brought there with the first batch
        with no_waiting():
            for progress in (0.0, 0.99):
                set_lr(optimizer, training, progress)
                value = step(batch, progress)
                assert value.device == THERE
                assert value.shape == (2,)
                batch = next(batches)
        raise StepTakenError

    monkeypatch.setattr("trainables.fused_classify.fit_together", fit)
    # which does not know that device
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    recipe = assign(base, {"classify.loss": loss})
    there = [ThereContext(torch.device(THERE), seed) for seed in SEEDS]
    with pytest.raises(StepTakenError):
        run_together(recipe.classify, given(recipe, views, there))
