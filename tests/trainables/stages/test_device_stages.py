"""No method that trains, draws or serves meets two devices; and a GPU gives what a CPU gives."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.helpers.few_samples import (
    CLASSES,
    FEATURES,
    NOVEL,
    STREAM_FEATURES,
    TRAIN,
    TRUNK,
    UNKNOWN,
    VALIDATION,
    classifier,
    tensors,
)
from tests.helpers.pretend_device import DEVICE, DeviceContext, DeviceTensor, pretend_device
from trainables.artifacts import Evaluation, ImageView, LabelledView, PseudoLabels
from trainables.context import Context
from trainables.data.views import Views
from trainables.experiment import Experiment, Training
from trainables.inference.model import PARTS, Card, Model
from trainables.methods import KINDS  # noqa: F401  (fills the shelves)
from trainables.methods.heads.routed_experts import RoutedExperts
from trainables.methods.losses import Loss
from trainables.methods.method import Method
from trainables.models.backbone import build_trunk, to_artifact
from trainables.models.early_exit import as_needed
from trainables.pipeline import STAGES, plan, run, run_step
from trainables.settings import assign

SMALL = {
    "classify.training": {"epochs": 1, "batch_size": 32, "precision": "float32"},
    "update.training": {"epochs": 1, "batch_size": 64, "precision": "float32"},
    "score.threshold": {"known_recall": {"keep": 0.7}},
}
# takes weights from elsewhere, and computes nothing; needs a transformer
NOT_HERE = (("method", "pretrained"), ("trunk", "lora"))
STILL = (("method", "ridge"), ("method", "lda"), ("trunk", "frozen"))  # updates of the head alone
ON_FEATURES = ("rebalance", "score", "discover", "rescore", "evaluate")
TRAINING = Training(epochs=1, batch_size=8, precision="float32")
# of these, one lets any method in
COMPANIONS: tuple[dict[str, object], ...] = (
    {},
    {"head": {"experts": {"count": 3}}},
    {"loss": "joint"},
)


def choices() -> Iterator[tuple[str, str, str]]:
    """Yield (stage, setting, name) of every method that the stages before features can have."""
    for stage in ("pretrain", "classify", "extract", "update"):
        for setting, field in Experiment.model_fields[stage].annotation.model_fields.items():  # type: ignore[union-attr]
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, Method):
                provided = STAGES[stage].PROVIDES.get(setting)
                for name, method in sorted(kind.shelf.items()):
                    fits = (
                        stage == "classify"
                        or provided is None
                        or method.required_inputs() <= provided
                    )
                    if fits and (setting, name) not in NOT_HERE:
                        yield stage, setting, name


def settings_with(stage: str, setting: str, name: str) -> Any:
    """Return a stage's settings with this method, and what it needs beside it."""
    kind: Any = Experiment.model_fields[stage].annotation
    own: dict[str, object] = {setting: name}
    if setting == "loss" and not Loss.lookup(name).trains_head():  # type: ignore[attr-defined]
        own = {"loss": {"joint": {"contrast": name}}}
    if stage == "pretrain" and setting != "method":
        own["method"] = "simclr"
    if "training" in kind.model_fields:
        own["training"] = TRAINING
    if stage == "update" and (setting, name) not in STILL:
        own["mode"] = "full"  # the head alone is updated by the recipe below
    if setting == "shift_augmentation":
        own |= {"batchnorm": "shifted", "shift_steps": 2}
    refusals = []
    for companion in COMPANIONS:
        if companion.keys() <= kind.model_fields.keys() - {setting}:
            try:
                return kind(**own, **companion)
            except ValidationError as error:
                refusals.append(str(error))
    raise AssertionError(f"{stage}.{setting}={name} goes with nothing here: {refusals}")


def inputs_of(stage: str) -> dict[str, Any]:
    """Return what a stage takes."""
    clusters = torch.where(torch.from_numpy(UNKNOWN.labels) < CLASSES, 0, 1)
    available = {
        "backbone": to_artifact(TRUNK, "fastnet", 16),
        "known_train": TRAIN,
        "validation_known": VALIDATION,
        "validation_novel": LabelledView(*VALIDATION[:3], NOVEL, ""),
        "pool": ImageView(UNKNOWN.images, UNKNOWN.indices, ""),
        "unlabelled": ImageView(UNKNOWN.images, UNKNOWN.indices, ""),
        "features": FEATURES,
        "stream_features": STREAM_FEATURES,
        "classifier": classifier("linear"),
        "pseudo_labels": PseudoLabels(
            torch.arange(len(clusters)), CLASSES + clusters, torch.ones(len(clusters)), NOVEL, {}
        ),
    }
    wanted = inspect.signature(STAGES[stage].run).parameters
    return {name: value for name, value in available.items() if name in wanted}


@pytest.mark.parametrize(("stage", "setting", "name"), list(choices()))
def test_a_method_meets_one_device(stage: str, setting: str, name: str) -> None:
    settings = settings_with(stage, setting, name)
    with pretend_device() as waits:
        result = STAGES[stage].run(
            settings, **inputs_of(stage), context=DeviceContext(device=DEVICE)
        )
    found = tensors(tuple(result))
    assert not any(isinstance(tensor, DeviceTensor) for tensor in found), (
        "the result is on the device"
    )
    assert all(bool(tensor.isfinite().all()) for tensor in found if tensor.is_floating_point())
    assert waits or (stage, setting) == ("pretrain", "method")  # it did compute there


@pytest.fixture(scope="module")
def artifacts(base: Experiment, views: Views) -> dict[str, Any]:
    return run(base, Context(), views=views)


def evaluation_of(
    base: Experiment, artifacts: Mapping[str, Any], context: Context, **changes: object
) -> Evaluation:
    """Run the stages on features again, on one trunk."""
    found = dict(artifacts)
    for step in plan(assign(base, changes)):
        if step.stage in ON_FEATURES:
            inputs = {name: found[name] for name in step.inputs}
            if step.stage == "rebalance":
                inputs["classifier"] = artifacts["classifier"]
            found.update(run_step(step, inputs, context))
    result: Evaluation = found["evaluation"]
    return result


CHANGES = {"rebalance.method": {"crt": {"epochs": 2}}, "score.method": "mahalanobis"}


def test_the_stages_on_features_measure_the_same_on_the_device(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    expected = evaluation_of(base, artifacts, Context(), **CHANGES)
    with pretend_device():
        found = evaluation_of(base, artifacts, DeviceContext(device=DEVICE), **CHANGES)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_whole_recipe_runs_on_the_device(base: Experiment, views: Views) -> None:
    with pretend_device() as waits:
        found = run(base, DeviceContext(device=DEVICE), views=views)
    assert not any(isinstance(tensor, DeviceTensor) for tensor in tensors(tuple(found.values())))
    assert 0 <= found["evaluation"].metrics["evaluate/accuracy"] <= 1
    assert waits


def test_a_served_model_answers_the_same_on_the_device(
    views: Views, artifacts: dict[str, Any]
) -> None:
    parts = {name: artifacts[name] for name in PARTS}
    sizes = artifacts["classifier"].class_counts.tolist()
    card = Card(
        class_names=tuple(f"class {number}" for number in range(len(sizes))),
        num_known=views.held_out_known.num_classes,
        image_size=parts["backbone"].image_size,
        class_counts=tuple(sizes),
        evaluation_digest="",
        source="",
        protocol_hash="",
    )
    expected = Model(parts, card).outputs(views.held_out_known)
    with pretend_device():
        found = Model(parts, card, DEVICE).outputs(views.held_out_known)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_branches_are_spared_on_the_device_as_on_a_cpu() -> None:
    trunk = build_trunk("fastnet+3xstage", 16, generator=torch.Generator().manual_seed(0)).eval()
    torch.manual_seed(0)
    head = RoutedExperts(count=3).build(trunk.num_features, CLASSES).eval()
    images = torch.from_numpy(UNKNOWN.images).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = as_needed(trunk, [head])(images)
        with pretend_device():
            found = as_needed(trunk.to(DEVICE), [head])(images.to(DEVICE))
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
def test_the_stages_on_features_measure_the_same_on_a_gpu(
    base: Experiment, artifacts: dict[str, Any]
) -> None:
    gpu = Context(device=torch.device("cuda"))
    for changes in (CHANGES, {"rebalance.method": "tuned", "score.method": "knn"}):
        expected = evaluation_of(base, artifacts, Context(), **changes)
        found = evaluation_of(base, artifacts, gpu, **changes)
        assert found.metrics.keys() == expected.metrics.keys()
        # a rounding may turn the answer for a sample near a border: there are few of them
        assert found.metrics == pytest.approx(expected.metrics, rel=0.05, abs=0.05)


@pytest.mark.gpu
def test_a_whole_recipe_on_a_gpu_is_as_good_as_on_a_cpu(base: Experiment, views: Views) -> None:
    longer = assign(base, {"classify.training.epochs": 20, "update.training.epochs": 5})
    results = {}
    for device in ("cpu", "cuda"):
        context = Context(device=torch.device(device))
        found = run(longer, context, views=views)
        assert all(tensor.device.type == "cpu" for tensor in tensors(tuple(found.values())))
        results[device] = found["evaluation"].metrics
    # other crops from the same seed: equal up to what a seed changes
    for name in ("evaluate/accuracy", "evaluate/novelty/auroc"):
        assert results["cuda"][name] == pytest.approx(results["cpu"][name], abs=0.2)
